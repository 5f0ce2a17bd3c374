"""From a console log, a dump of memory or a run record to a crash: what, who, where from."""
