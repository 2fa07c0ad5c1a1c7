"""Is nothing lost, nobody let in, nothing raw? Campaigns of hostile input and interruptions.

python3 scripts/host.py bench campaigns [--only NAME ...] [--count N] [--anew]

  references     hostile picture files, and names of files and folders
  seeds          hostile seed files and names
  inputs         API inputs at and past their bounds, of every node, against a live server
  interruptions  Cancel, errors, no memory, no numbers, full disk, signals, against a live server
  runs           many runs in one server: memory, descriptors and files stay flat
  users          prompts of two users, interleaved
  graphs         damaged graphs

Each result is on the disk before the next item begins, in results/campaigns/NAME.jsonl, and the
same command goes on where it was stopped. ``runs`` is of one server and begins anew. Item n is made
of the campaign's name and n alone. At the end docs/reliability.md is written.
"""

import argparse
import faulthandler
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

from pocket_world import REPO

# isort: split

import comfyui_version
import torch

import campaigns_page
from campaigns_ledger import FULL, Found, Ledger
from quality import commit_now

IN_PROCESS = ("references", "seeds")
GIVING = ("inputs", "graphs")
OF_ONE_SERVER = ("runs",)
# Seconds for one item in process; the alarm in it should ring before.
LONGEST = 60
FAILED = 3  # exit code of a worker whose campaign is itself wrong
# Those with which a worker ends that somebody stopped, or whose campaign is wrong.
NO_RESULT = (FAILED, 2, 130, -signal.SIGINT, -signal.SIGTERM)


def campaign(name: str) -> Callable[[int, int], Iterator[Found]]:
    if name in IN_PROCESS:
        import campaigns_files as module
    elif name in GIVING:
        import campaigns_inputs as module
    else:
        import campaigns_server as module
    return getattr(module, name)


def facts() -> dict:
    """The code and the machine."""
    return {
        "commit": commit_now(),
        "host": comfyui_version.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
    }


def end_with_parent() -> None:
    """Leave no worker behind that would go on writing, however its parent ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(FAILED)

    if os.name != "nt":  # an orphan gets no new parent there
        threading.Thread(target=watch, daemon=True).start()


def work(name: str, count: int) -> None:
    """Do what is left of a campaign, in this process, which may hang or die of it."""
    end_with_parent()
    ledger = Ledger(name)
    if name in OF_ONE_SERVER and ledger.done < count:
        ledger.clear()
    ledger.begin(facts())
    items = campaign(name)(ledger.done, count)
    for found in items:
        ledger.add(found)
        if name in IN_PROCESS:
            faulthandler.dump_traceback_later(LONGEST, exit=True)
        if ledger.done % 100 == 0:
            print(f"  {name}: {ledger.done} of {count}", flush=True)
    faulthandler.cancel_dump_traceback_later()
    ledger.sum_up()


def run(name: str, count: int) -> None:
    """Do what is left of a campaign; an item of which its process hangs or dies is counted."""
    while Ledger(name).done < count:
        command = [sys.executable, __file__, "--work", name, "--count", str(count)]
        code = subprocess.run(command, cwd=REPO).returncode
        if code == 0:
            return
        if code in NO_RESULT or name not in IN_PROCESS:
            sys.exit(f"{name}: its process ended with {code}; the same command goes on from there")
        ledger = Ledger(name)
        ledger.add(Found("hung", {"hung"}, f"item {ledger.done}: the process ended with {code}"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=FULL, default=list(FULL))
    parser.add_argument("--count", type=int, help="items of each; by default all")
    parser.add_argument("--anew", action="store_true", help="forget what was found before")
    parser.add_argument("--work", choices=FULL, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        try:
            work(args.work, args.count)
        except Exception:
            traceback.print_exc()
            sys.exit(FAILED)
        return
    for name in args.only:
        count = args.count or FULL[name]
        if args.anew:
            Ledger(name).path.unlink(missing_ok=True)
        print(f"{name}: {Ledger(name).done} of {count} are done", flush=True)
        run(name, count)
    campaigns_page.write_page({name: Ledger(name) for name in FULL})
    print(campaigns_page.PAGE.read_text("utf-8"))


if __name__ == "__main__":
    main()
