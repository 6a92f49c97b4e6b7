"""Tests of what measures: a wrong ruler makes every figure wrong."""
