"""Users' terminals, to which SEND, SOML and SAML write (RFC 821 §3.4)."""
