"""Tests of instructions.py without counting; `tests/bench.rs` runs them.

The environment variable DHT_SERVER names a dht-server.
"""

import io
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import instructions

OLD, NEW = "rustc 1.94.0 (one)", "rustc 1.95.0 (other)"


def outcome(compiler: str, get: int, put: int, *options: str) -> tuple[int, str, str, dict[str, int | str]]:
    """Runs main with these counts and a record of 1000 and 2000 by OLD: the status, the output, the new record."""
    printed, warned = io.StringIO(), io.StringIO()
    with tempfile.TemporaryDirectory() as directory:
        record = Path(directory, "instructions.json")
        record.write_text(json.dumps({"compiler": OLD, "get": 1000, "put": 2000}))
        with (
            mock.patch.object(instructions, "RECORD", record),
            mock.patch.object(instructions, "compiler_of", return_value=compiler),
            mock.patch.object(instructions, "count_instructions", return_value={"get": get, "put": put}),
            mock.patch("shutil.which", return_value="valgrind"),
            redirect_stdout(printed),
            redirect_stderr(warned),
        ):
            status = instructions.main(["dht-server", *options])
        return status, printed.getvalue(), warned.getvalue(), json.loads(record.read_text())


class Comparison(unittest.TestCase):
    def test_growth_up_to_the_limit_passes(self) -> None:
        status, printed, warned, _ = outcome(OLD, 1050, 2100)
        self.assertEqual((status, warned), (0, ""))
        self.assertIn("get: 1050 instructions, 1000 on record (+5.0%)", printed)

    def test_growth_beyond_the_limit_fails_and_names_the_request(self) -> None:
        status, _, warned, _ = outcome(OLD, 1000, 2101)
        self.assertEqual(status, 1)
        self.assertIn("FAILED: a put", warned)
        self.assertNotIn("a get", warned)

    def test_another_compiler_only_warns_with_both_versions_and_the_figures(self) -> None:
        status, printed, warned, _ = outcome(NEW, 5000, 6000)
        self.assertEqual(status, 0)
        for expected in ("get: 5000 instructions, 1000 on record", "put: 6000 instructions, 2000 on record"):
            self.assertIn(expected, printed)
        for expected in ("WARNING", OLD, NEW):
            self.assertIn(expected, warned)

    def test_record_replaces_the_counts_and_the_compiler(self) -> None:
        status, _, _, record = outcome(NEW, 5000, 6000, "--record")
        self.assertEqual((status, record), (0, {"compiler": NEW, "get": 5000, "put": 6000}))


class Surroundings(unittest.TestCase):
    def test_without_valgrind_the_count_is_skipped_with_a_message(self) -> None:
        command = [sys.executable, "-B", instructions.__file__, "dht-server"]
        finished = subprocess.run(command, env={"PATH": ""}, capture_output=True, text=True)
        self.assertEqual((finished.returncode, finished.stdout), (0, ""))
        self.assertIn("SKIPPED: valgrind is not installed", finished.stderr)

    def test_a_program_and_the_record_name_their_compilers(self) -> None:
        form = re.compile(r"rustc \d+\.\d+\.\d+")
        self.assertRegex(instructions.compiler_of(Path(os.environ["DHT_SERVER"])), form)
        self.assertRegex(json.loads(instructions.RECORD.read_text())["compiler"], form)


if __name__ == "__main__":
    unittest.main()
