"""Same inputs, same seed, byte for byte, with one number of threads (docs/determinism.md)."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tiny
from seedselect_core.search.presets import PRESETS

TESTS = Path(__file__).resolve().parent
# A sampler that takes one path, and two that draw noise on the way, by both kinds of generators.
SAMPLERS = ("dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde")
PROGRAM = """
import os, sys
sys.path[:0] = [{host!r}]
sys.path += [{repo!r}, {tests!r}]
from comfy.cli_args import args
args.cpu = True
import torch
torch.manual_seed(int(sys.argv[1]))
import test_determinism
for sampler in test_determinism.SAMPLERS:
    print(sampler, *test_determinism.digests(sampler))
"""


def digests(sampler: str) -> list[str]:
    """Of the seed file, the picture and the losses of a short search with the default settings."""
    settings = replace(PRESETS["default"], iterations=3, candidates=3)
    sampling = replace(tiny.SAMPLING, sampler_name=sampler, steps=4)
    seed, latent, history = tiny.optimize(tiny.Graph(), sampling, settings)
    file = Path(os.environ["SEEDSELECT_SCRATCH"], "seed.safetensors")
    seed.save(file)
    parts = (file.read_bytes(), latent["samples"].numpy().tobytes(), repr(history).encode())
    return [hashlib.sha256(part).hexdigest() for part in parts]


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("SEEDSELECT_SCRATCH", str(tmp_path))


def in_a_fresh_process(number: int) -> dict[str, list[str]]:
    """Digests by sampler, of a process whose generators and hashes begin elsewhere."""
    program = PROGRAM.format(
        host=os.environ["COMFYUI_DIR"], repo=str(TESTS.parent), tests=str(TESTS)
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(number)],
        env={**os.environ, "PYTHONHASHSEED": str(number)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    return {name: found for name, *found in rows if name in SAMPLERS}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_two_runs_in_one_process_are_the_same_bytes(sampler, scratch):
    torch.manual_seed(1)
    first = digests(sampler)
    torch.manual_seed(2)
    torch.rand(7)
    assert digests(sampler) == first
    assert len(set(first)) == 3


@pytest.mark.doubts  # as in a process of its own: what the check asks for stays known
def test_two_processes_give_the_same_bytes(scratch):
    first = in_a_fresh_process(1)
    assert set(first) == set(SAMPLERS)
    assert in_a_fresh_process(2) == first
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as those have
    try:
        assert {sampler: digests(sampler) for sampler in SAMPLERS} == first
    finally:
        torch.set_num_threads(threads)


def test_another_number_is_another_seed(scratch):
    """Else the digests would say nothing."""
    sampling = replace(tiny.SAMPLING, seed=tiny.SAMPLING.seed + 1)
    seeds = [tiny.optimize(tiny.Graph(), s)[0].noise for s in (tiny.SAMPLING, sampling)]
    assert not torch.equal(*seeds)
