"""Renders values as tables and text for the terminal. No IO; shared by the commands and the demo."""
