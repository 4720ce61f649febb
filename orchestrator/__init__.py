"""Decides and watches: study, plan, scheduling, tracking, tables, report, command line."""
