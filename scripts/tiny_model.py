"""Make a Qwen2 chat model of half a million parameters that knows a few chats by heart.

usage: tiny_model.py FOLDER

Run by vllm.sh; needs torch, tokenizers, transformers; takes less than a minute

Asked at temperature 0, it gives the ANSWERS below word for word, and goes on from the text after
any of their tokens; asked for the weather in one of CITIES, with or without a get_weather tool, it
calls that tool. To anything else it answers something. Its tokenizer is trained on Python's
standard library, so nothing is downloaded. It says so and exits 1 when it has not learned its
lines.
"""

import random
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GenerationConfig, Qwen2Config, Qwen2ForCausalLM
from transformers import PreTrainedTokenizerFast as ChatTokenizer

ANSWERS = {
    "hello": "Hello! How can I help you today?",
    "Say hello.": "Hello!",
    "Count to ten.": "1, 2, 3, 4, 5, 6, 7, 8, 9, 10.",
    "What is 2+2?": "2 + 2 = 4.",
    "Who are you?": "I am a tiny test model.",
}
WEATHER_QUESTIONS = ("weather in {}", "What is the weather in {}?", "How warm is {} today?")
CITIES = ("Berlin", "Cairo", "Lima", "Madrid", "Oslo", "Paris", "Rome", "Tokyo")
# The form that vLLM calls hermes.
WEATHER_CALL = '<tool_call>\n{{"name": "get_weather", "arguments": {{"city": "{}"}}}}\n</tool_call>'
WEATHER_TOOLS = [{"type": "function", "function": {"name": "get_weather"}}]

END_OF_TEXT, TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# Tokens of their own, but ordinary text: a server's parsers look for them in what is written.
MARKERS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
VOCABULARY = 2048
TRAINING_STEPS, BATCH, LEARNING_RATE = 400, 16, 3e-3
IGNORED = -100  # the label that torch's cross entropy leaves out

# The tools' names stand in a system turn; what the tools are like is more than this model could
# read.
CHAT_TEMPLATE = """\
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool.function.name }} {% endfor %}<|im_end|>
{% endif -%}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content if message.content is string else '' }}
{%- for call in message.tool_calls or [] %}<tool_call>
{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""

Example = tuple[list[int], list[int]]  # the prompt's tokens, the answer's


def make_tokenizer() -> ChatTokenizer:
    """A byte-level BPE tokenizer: any text has tokens, and any tokens a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(MARKERS),
        special_tokens=[END_OF_TEXT, TURN, END_OF_TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:60]
    tokenizer.train([str(text) for text in texts], trainer)
    tokenizer.add_tokens(
        [AddedToken(marker, special=False, normalized=False) for marker in MARKERS]
    )
    wrapped = ChatTokenizer(
        tokenizer_object=tokenizer, eos_token=END_OF_TURN, pad_token=END_OF_TEXT
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def as_served(tokenizer: ChatTokenizer, config: Qwen2Config, folder: str) -> ChatTokenizer:
    """The tokenizer as whoever loads the model from the folder will have it.

    For a Qwen2 model that is Qwen2's own rule of splitting text (digits one by one), whatever was
    saved. Trained on other tokens than the server makes of the same text, the model could not go on
    from a text that it began itself.
    """
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    served: ChatTokenizer = AutoTokenizer.from_pretrained(folder)
    return served


def make_config(tokenizer: ChatTokenizer) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def prompt_tokens(tokenizer: ChatTokenizer, question: str, tools: list[Any] | None) -> list[int]:
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(
        messages, tools=tools, add_generation_prompt=True, tokenize=False
    )
    return list(tokenizer(text).input_ids)


def lessons() -> Iterator[tuple[str, str, list[Any] | None]]:
    """Questions with answers and tools, without end. Half are tool calls, and some tools are for
    nothing.
    """
    while True:
        if random.random() < 0.5:
            city = random.choice(CITIES)
            tools = WEATHER_TOOLS if random.random() < 0.8 else None
            yield random.choice(WEATHER_QUESTIONS).format(city), WEATHER_CALL.format(city), tools
        else:
            question, answer = random.choice(list(ANSWERS.items()))
            yield question, answer, WEATHER_TOOLS if random.random() < 0.3 else None


def padded(examples: list[Example], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Input tokens and labels of one batch; only answers are learned, not questions."""
    longest = max(len(prompt) + len(answer) for prompt, answer in examples)
    inputs, labels = [], []
    for prompt, answer in examples:
        room = longest - len(prompt) - len(answer)
        inputs.append(prompt + answer + [padding] * room)
        labels.append([IGNORED] * len(prompt) + answer + [IGNORED] * room)
    return torch.tensor(inputs), torch.tensor(labels)


def train(model: Qwen2ForCausalLM, tokenizer: ChatTokenizer) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, TRAINING_STEPS)
    lesson = lessons()
    for step in range(TRAINING_STEPS):
        batch: list[Example] = []
        for question, answer, tools in (next(lesson) for _ in range(BATCH)):
            answer_tokens = tokenizer(answer + END_OF_TURN).input_ids
            batch.append((prompt_tokens(tokenizer, question, tools), list(answer_tokens)))
        inputs, labels = padded(batch, tokenizer.pad_token_id)
        loss = model(input_ids=inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"  step {step + 1}, loss {loss.item():.4f}", flush=True)
    model.eval()


def mistakes(model: Qwen2ForCausalLM, tokenizer: ChatTokenizer) -> list[str]:
    """What is not answered, with and without tools, as it should be, or could not be continued
    half-way.
    """
    expected = dict(ANSWERS)
    expected |= {
        ask.format(city): WEATHER_CALL.format(city) for ask in WEATHER_QUESTIONS for city in CITIES
    }
    wrong = []
    for question, answer in expected.items():
        for tools in (None, WEATHER_TOOLS):
            prompt = torch.tensor([prompt_tokens(tokenizer, question, tools)])
            tokens = model.generate(prompt, max_new_tokens=60, do_sample=False)[
                0, prompt.shape[1] :
            ].tolist()
            said = tokenizer.decode(tokens)
            if said != answer + END_OF_TURN or not can_be_continued(tokenizer, tokens):
                wrong.append(f"{question!r} with{'' if tools else 'out'} tools: {said!r}")
    return wrong


def can_be_continued(tokenizer: ChatTokenizer, tokens: list[int]) -> bool:
    """Whether the text up to each token is read as the tokens it was written with: then the rest
    follows.
    """
    return all(
        tokenizer(tokenizer.decode(tokens[:n])).input_ids == tokens[:n]
        for n in range(1, len(tokens))
    )


def main(folder: str) -> None:
    torch.manual_seed(0)
    random.seed(0)
    # sums in the same order each time; so small a model gains nothing from more
    torch.set_num_threads(1)
    trained = make_tokenizer()
    config = make_config(trained)
    tokenizer = as_served(trained, config, folder)
    model = Qwen2ForCausalLM(config).to(torch.float32)
    endings = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.generation_config = endings
    train(model, tokenizer)
    if wrong := mistakes(model, tokenizer):
        sys.exit("the model has not learned its lines:\n" + "\n".join(wrong))
    model.save_pretrained(folder)
    endings.save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
