"""Meters: where joules come from. One file each."""
