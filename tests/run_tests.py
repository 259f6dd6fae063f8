"""What Python test programs end with: `from run_tests import run_tests`, with tests/ in sys.path."""

import sys
import unittest

SKIPPED_EXIT = 77  # what ctest shows as skipped, see SKIP_RETURN_CODE


def run_tests():
    """Runs the test cases of the program that calls it, or those it was started with, and exits: 77 if all were skipped."""
    result = unittest.main(exit=False, verbosity=2).result
    if not result.wasSuccessful():
        sys.exit(1)
    # A test that is skipped counts as run, those of a class that is skipped as a whole do not: the class is in `skipped` in their place.
    skipped_tests = sum(isinstance(test, unittest.TestCase) for test, _ in result.skipped)
    sys.exit(SKIPPED_EXIT if result.skipped and result.testsRun <= skipped_tests else 0)
