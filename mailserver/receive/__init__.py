"""In: SMTP from the wire to the spool."""
