"""Run by the host before it imports anything of its own."""

import os
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))

import chaos_watch

chaos_watch.tell_of_rust()
chaos_watch.WATCH.install()
