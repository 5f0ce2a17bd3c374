"""One run: plan, boot, attach, probe, check, verdict, record."""
