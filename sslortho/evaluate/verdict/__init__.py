"""Verdict on a pretraining: did it work, what says so, and what to try."""

from sslortho.evaluate.verdict.diagnose import diagnose
from sslortho.evaluate.verdict.evidence import NAMES_IN_RECORDS
from sslortho.evaluate.verdict.findings import Finding, Verdict, verdict_lines

__all__ = ["NAMES_IN_RECORDS", "Finding", "Verdict", "diagnose", "verdict_lines"]
