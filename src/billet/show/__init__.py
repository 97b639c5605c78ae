"""What a person sees: values in, tables out. No IO and no calls, so the commands and the demo share it."""
