"""Policies at random. Half of the inputs are texts made by mutating the corpus: reading one gives a
Policy or a PolicyError, nothing else. The other half are valid policies: their filters must answer
as a direct reading of the policy does, for every system call.

    python fuzz/fuzz_policy.py --runs N [--seed S]
"""

from __future__ import annotations

import argparse
import errno
import glob
import os
import random
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from sandbox._errors import PolicyError  # noqa: E402
from sandbox._policy import Condition, Policy, Rule, kernel_names  # noqa: E402
from sandbox._policy_file import load_policy  # noqa: E402
from sandbox._rule_file import init_rules  # noqa: E402
from tests.bpf import MACHINES, Judge  # noqa: E402

CORPUS = os.path.join(ROOT, "fuzz", "corpus", "policy")
ERRNOS = sorted(errno.errorcode.values())
CALLS = sorted(kernel_names().numbers)
WORDS = [
    "[[allow]]", "[[refuse]]", "[[violation]]", "[[files]]", "[process]", "[[never]]", "calls =",
    "reason =", "when =", "errno =", "extends =", "default =", "paths =", "right =", "mdwe =",
    "{ arg = 0, equals = 1 }", "mask =", "in =", "[]", "{}", "[", "]", "{", "}", "=", "\n", ",",
    '""', '"', "'''", "#", ".", "true", "-1", "0x", "1e400", "nan", "1979-05-27", "0", "1", "6",
    "4294967295", "4294967296", '"\\u0000"', '"@mounts"', '"/"', '"../x"', '"base"', '"init"',
]  # fmt: skip


def mutated(rng: random.Random, corpus: list[str]) -> str:
    text = rng.choice(corpus)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 5))):
        at = rng.randrange(len(text) + 1)
        to = min(len(text), at + rng.choice((1, 3, 10, 200)))
        kind = rng.randrange(6)
        if kind == 0:
            text = text[:at] + text[to:]
        elif kind == 1:
            text = text[:at] + rng.choice(WORDS) + text[at:]
        elif kind == 2:
            text = text[:at] + f'"{rng.choice([*CALLS, *kernel_names().constants])}"' + text[at:]
        elif kind == 3:
            other = rng.choice(corpus)
            text = text[:at] + other[rng.randrange(len(other)) :]
        elif kind == 4:
            text = text[:at] + text[at:to] * rng.choice((2, 3, 50)) + text[to:]
        else:
            text = text[:at] + chr(rng.choice((0, 9, 10, 0x7F, 0x85, 0x2028, 0x1F600))) + text[at:]
        text = text[:20_000]
    return text


def read(text: str, path: str) -> Policy | None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    try:
        return load_policy(path)
    except PolicyError as error:
        if path not in str(error):
            raise AssertionError(f"the message does not name the file: {error}") from error
        return None


def random_conditions(rng: random.Random) -> tuple[Condition, ...]:
    conditions = []
    for arg in rng.sample(range(6), rng.choice((0, 0, 1, 1, 2, 3))):
        mask = rng.choice(
            (0xFFFFFFFF, 0xFFFFFFFF, 0xF, 1 << rng.randrange(32), rng.getrandbits(32))
        )
        mask = mask or 1
        values = {rng.getrandbits(rng.choice((1, 4, 32))) & mask for _ in range(rng.randint(1, 4))}
        conditions.append(Condition(arg, tuple(sorted(values)), mask))
    return tuple(conditions)


def random_policy(rng: random.Random) -> Policy | None:
    """A policy, or None where chance made one that must be refused."""
    rules: list[Rule] = []
    if rng.random() < 0.5:
        rules += load_policy(rng.choice(("base", "compute", "python"))).rules
    taken = {call for rule in rules for call in rule.calls}
    free = [call for call in CALLS if call not in taken]
    rng.shuffle(free)
    for _ in range(rng.randint(0, 12)):
        calls = tuple(free.pop() for _ in range(min(len(free), rng.randint(1, 5))))
        action = rng.choice(("allow", "allow", "refuse", "violation"))
        try:
            if action == "allow":
                alternatives = [random_conditions(rng) for _ in range(rng.randint(1, 3))]
                alternatives = [()] if () in alternatives else alternatives
                rules += [Rule("allow", calls, "chance", when) for when in alternatives]
            elif action == "refuse":
                rules.append(Rule("refuse", calls, "chance", errno=rng.choice(ERRNOS)))
            else:
                rules.append(Rule("violation", calls, "chance"))
        except PolicyError:
            if calls:
                raise
    try:
        return Policy("chance", tuple(rules), default=rng.choice((*ERRNOS, "ENOSYS", "EPERM")))
    except PolicyError:
        return None


def random_arguments(rng: random.Random, policy: Policy, call: str) -> list[int]:
    args = [rng.getrandbits(rng.choice((1, 4, 32, 64))) for _ in range(6)]
    rules = [r for r in (*policy.by_call.get(call, ()), *init_rules()) if call in r.calls]
    for rule in rng.sample(rules, min(len(rules), rng.randint(0, 2))):
        for condition in rule.when:
            if rng.random() < 0.8:
                noise = rng.getrandbits(64) & ~condition.mask
                args[condition.arg] = rng.choice(condition.values) | noise
    return args


def compare(rng: random.Random, policy: Policy) -> bool:
    """Whether the policy could be compiled; differences raise."""
    machine = rng.choice(tuple(MACHINES))
    try:
        judge = Judge(policy, machine)
    except PolicyError as error:
        if "allowed in part" not in str(error):
            raise
        return False
    for number in [*range(480), 0x12345, 0x3FFFFFFF, 0xFFFFFFFF]:
        call = judge.names.get(number, "")
        for _ in range(6 if any(r.when for r in policy.by_call.get(call, ())) else 1):
            args = random_arguments(rng, policy, call)
            got, wanted = judge.guest(number, args), judge.expected(number, args)
            if got != wanted:
                shown = [hex(arg) for arg in args]
                raise AssertionError(
                    f"{call} {number} {shown}: {got:#x}, not {wanted:#x}: {policy}"
                )
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    options = parser.parse_args()
    corpus = []
    for name in sorted(glob.glob(os.path.join(CORPUS, "*"))):
        with open(name, encoding="utf-8") as file:
            corpus.append(file.read())
    failures = accepted = compiled = 0
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "policy.toml")
        for run in range(options.runs):
            rng = random.Random(f"{options.seed} {run}")
            text = ""
            try:
                if run % 2:
                    policy = random_policy(rng)
                else:
                    text = mutated(rng, corpus)
                    policy = read(text, path)
                    accepted += policy is not None
                if policy is not None and (run % 2 or run % 20 == 0):
                    compiled += compare(rng, policy)
            except Exception as error:  # whatever it is, it is a finding
                failures += 1
                print(f"seed {options.seed} run {run}: {error!r}\n{text}", file=sys.stderr)
            if run % 500 == 499:
                print(f"{run + 1} of {options.runs}, {failures} failures", flush=True)
    print(f"seed {options.seed}: {accepted} texts accepted, {compiled} policies compared")
    if options.runs >= 200 and not (accepted and compiled):
        failures += 1
        print("the inputs reached nothing: fuzzer at fault", file=sys.stderr)
    print(f"fuzz_policy: {options.runs} inputs, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
