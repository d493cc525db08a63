"""`python -m benchmarks`: runs every program that needs no more than this machine; `table` only rewrites the tables."""

import subprocess
import sys

from benchmarks.kernel_page import PAGE, write_page
from benchmarks.line import RESULTS, write_table

PROGRAMS = ("towers", "labeler", "baselines", "memory", "kernel", "step")

if sys.argv[1:] != ["table"]:
    for program in PROGRAMS:
        subprocess.run([sys.executable, "-m", f"benchmarks.{program}", "--append"], check=True)
write_table()
write_page(PAGE, RESULTS)
