"""At rest: Maildir, mbox and POP3's view of them."""
