"""Out, remote: mail exchanges and the SMTP client."""
