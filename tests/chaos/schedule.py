"""Which process suffers what, when: a list of faults that a seed and a duration determine. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

# SIGKILL and SIGTERM, started again; SIGSTOP, continued
KILL, TERMINATE, STOP = "kill", "terminate", "stop"
KAFKA, GATEWAY, WORKER = "kafka", "gateway", "worker"

_CALM = 4.0  # seconds without a new fault at the beginning and at the end
_BETWEEN = (0.5, 4.5)  # seconds from one fault to the next
# A request that three workers in a row died with is poison by rule, so in such a time no more than
# two die. A whole reply, with a takeover before it, takes no longer.
_WINDOW, _DEATHS = 30.0, 2
_SETTLE = 3.0  # seconds a process is left alone after it was started again or continued
_KAFKA_SETTLE = 25.0
_WEIGHTS = {WORKER: 6, GATEWAY: 3, KAFKA: 1}
_ACTIONS = {
    WORKER: (KILL, KILL, TERMINATE, STOP),
    GATEWAY: (KILL, TERMINATE, STOP),
    KAFKA: (KILL, TERMINATE, STOP),
}
# Seconds until it is started again or continued: all far shorter than a request's deadline.
_AWAY = {KILL: (0.2, 3.0), TERMINATE: (0.2, 3.0)}
# a worker's session ends after 3 s
_STOPPED = {WORKER: (1.0, 12.0), GATEWAY: (0.5, 8.0), KAFKA: (1.0, 8.0)}
_KAFKA_AWAY = (0.5, 15.0)


@dataclass(frozen=True)
class Fault:
    """`at` and `away` are seconds: since the run began, and until the process goes on."""

    at: float
    target: str
    action: str
    away: float

    def __str__(self) -> str:
        return f"{self.at:.1f} s: {self.action} {self.target}, back after {self.away:.1f} s"


def schedule(seed: int, duration: float, targets: Mapping[str, Sequence[str]]) -> list[Fault]:
    """Faults in the order of their times; `targets`: the processes of each kind. The same arguments
    give the same list.
    """
    random = Random(seed)
    free = {name: _CALM for names in targets.values() for name in names}
    faults: list[Fault] = []
    deaths = [-_WINDOW] * _DEATHS  # times
    now = _CALM
    while now < duration - _CALM:
        kinds = {
            kind: [name for name in names if free[name] <= now] for kind, names in targets.items()
        }
        kind = random.choices(list(kinds), [_WEIGHTS[kind] for kind in kinds])[0]
        if kinds[kind]:
            spared = kind == WORKER and now - deaths[-_DEATHS] < _WINDOW
            fault = _fault(
                random,
                now,
                random.choice(kinds[kind]),
                kind,
                (TERMINATE,) if spared else _ACTIONS[kind],
            )
            faults.append(fault)
            deaths += [now] * (kind == WORKER and fault.action != TERMINATE)
            free[fault.target] = now + fault.away + (_KAFKA_SETTLE if kind == KAFKA else _SETTLE)
        now += random.uniform(*_BETWEEN)
    return faults


def _fault(random: Random, now: float, target: str, kind: str, actions: Sequence[str]) -> Fault:
    action = random.choice(actions)
    away = _STOPPED[kind] if action == STOP else _KAFKA_AWAY if kind == KAFKA else _AWAY[action]
    return Fault(round(now, 2), target, action, round(random.uniform(*away), 2))
