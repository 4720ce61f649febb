"""Trains experts and bases; an interrupted training resumes and ends with the same bits."""
