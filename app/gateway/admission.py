"""Whether a request is taken: the gateway serves, the model is known, its queue is not too long."""

from app.catalog import Catalog, Known
from app.errors import BusUnavailable, Draining, ModelNotFound, QueueFull, UpstreamLoop
from app.gateway.inbox import Inbox
from app.gateway.submission import Submission

_RETRY_AFTER_SECONDS = 5.0  # while no rate is known
_SHOWN = 200  # characters of an unknown model's name: it may be as large as the body


class Admission:
    def __init__(self, catalog: Catalog, inbox: Inbox, max_queue_depth: int) -> None:
        self._catalog = catalog
        self._inbox = inbox
        self._max_queue_depth = max_queue_depth
        self.deployment = ""  # names the log this gateway writes to
        self.unready = "starting"  # why no request is admitted; empty when they are
        self.draining = False

    def admit(self, submission: Submission) -> Known:
        """The model that the request is for. Raises GatewayError."""
        self.refuse_if_closed()
        if self.deployment in submission.hops.split(","):
            raise UpstreamLoop(
                "this request has come back through the gateway's own upstream: OPENAI_HOST (or a model's host in MODELS_FILE)"
                " points at this gateway"
            )
        known = self.model(submission.model)
        self._refuse_if_full(known, submission)
        return known

    def refuse_if_closed(self) -> None:
        """Raises Draining, and BusUnavailable while this gateway has no reply partition yet."""
        if self.draining:
            raise Draining("this gateway is being stopped; send the request again", retry_after=1)
        self.refuse_if_unready()

    def refuse_if_unready(self) -> None:
        """Raises BusUnavailable while this gateway does not know the log's models and requests."""
        if self.unready:
            raise BusUnavailable(f"not ready: {self.unready}", retry_after=1)

    def model(self, name: str) -> Known:
        """Raises ModelNotFound."""
        known = self._catalog.find(name)
        if known is None:
            shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
            raise ModelNotFound(f"The model {shown!r} does not exist; GET /v1/models lists those that do.", param="model")
        return known

    def _refuse_if_full(self, known: Known, submission: Submission) -> None:
        """Too many wait, or so many that this one could not begin before its deadline. Raises QueueFull."""
        depth = max(known.queue_depth, self._inbox.unanswered[known.card.model] - known.capacity)
        wait = known.estimated_wait(depth) or 0.0
        if depth >= self._max_queue_depth:
            over = known.estimated_wait(depth - self._max_queue_depth + 1)
            raise QueueFull(f"{depth} requests already wait for {submission.model!r}", retry_after=over or _RETRY_AFTER_SECONDS)
        if depth > 0 and wait > submission.timeout:
            longer = f"about {wait:.0f} s, longer than this one's {submission.timeout:g} s"
            raise QueueFull(f"{depth} requests wait for {submission.model!r}, {longer}", retry_after=wait - submission.timeout)
