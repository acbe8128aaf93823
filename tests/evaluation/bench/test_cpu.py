"""CPU time as the kernel tells it."""

import os
import time

from evaluation.bench import cpu

HZ = os.sysconf("SC_CLK_TCK")


def process(root, pid, name, user, system):
    folder = root / str(pid)
    folder.mkdir(exist_ok=True)
    (folder / "comm").write_text(f"{name}\n")
    (folder / "stat").write_text(
        f"{pid} ({name}) S 1 1 1 0 -1 4194560 0 0 0 0 {user * HZ} {system * HZ} 7 7 20 0\n"
    )


def test_the_engine_is_all_its_processes(tmp_path):
    for pid, name in (
        (10, "dockerd"),
        (11, "containerd"),
        (12, "containerd-shim"),
        (13, "docker-proxy"),
        (14, "bash"),
    ):
        process(tmp_path, pid, name, 1, 0)
    assert sorted(cpu.engine(tmp_path)) == [10, 11, 12, 13]


def test_what_began_meanwhile_counts_from_its_beginning_and_what_ended_not(tmp_path):
    process(tmp_path, 1, "a (strange) name", 5, 1)
    process(tmp_path, 2, "ends", 9, 0)
    before = cpu.use({"planes": [1, 2]}, tmp_path)
    process(tmp_path, 1, "a (strange) name", 7, 2)
    process(tmp_path, 3, "begins", 1, 0)
    after = cpu.use({"planes": [1, 3, 4]}, tmp_path)
    assert cpu.between(before, after) == {"planes": 3.0 + 1.0}


def test_this_process_takes_cpu_time():
    pid = os.getpid()
    before = cpu.use({"own": [pid]})
    until = time.process_time() + 3 / HZ
    while time.process_time() < until:
        pass
    assert cpu.between(before, cpu.use({"own": [pid]}))["own"] > 0
