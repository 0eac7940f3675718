"""The bus on Kafka. Only this package imports confluent_kafka."""
