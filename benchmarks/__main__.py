"""`python -m benchmarks`: runs every program that needs no more than this machine; `table` only rewrites the table."""

import subprocess
import sys

from benchmarks.line import write_table

PROGRAMS = ("towers", "labeler", "baselines")

if sys.argv[1:] != ["table"]:
    for program in PROGRAMS:
        subprocess.run([sys.executable, "-m", f"benchmarks.{program}", "--append"], check=True)
write_table()
