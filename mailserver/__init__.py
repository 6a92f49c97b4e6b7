"""A complete mail server on Twisted; this page is the map of the house.

====================  =====================================================================
``interfaces.py``     every seam between two rooms
``tap.py``            ``Options`` and ``makeService``: what ``twistd mailserver`` runs
``service.py``        the server as a Twisted service: binds, opens the house, lets people in
``house.py``          settings -> the rooms; the only file that connects everything
``assembly/``         settings -> the parts (log-in, entrance, submission, sending …) that it joins
``processes.py``      ``workers``: the server as one process, or as several and one that looks after them
``worker.py``         one of several: ``python -m mailserver.worker``
``supervisor.py``     starts worker processes, starts again those that die
``config.py``         TOML -> frozen settings
``durable.py``        the only place where files whose order matters are made, renamed, removed, synced
``threads.py``        the only place between threads and the reactor
``promise.py``        a future that costs little, between the threads that write and those that wait
``sockets.py``        what a socket takes at once, without a turn of the reactor
``channel_binding.py`` what ties a log-in to its TLS connection
``connections.py``    the sessions of all listeners: how many, how long, and their end
``proxies.py``        PROXY headers of load balancers
``own_rules.py``      a user's own rules: by name, within a time
``login/``            twisted.cred for SMTP AUTH and POP3
``certificates.py``   certificate and key files -> TLS contexts
``listeners.py``      listening sockets, bound before privileges drop, or inherited
``polling.py``        a turn of the reactor at less than Twisted's price
``notifying.py``      systemd: ready, alive, stopping
``maillog.py``        one function for each event in a message's life
``values/``           what travels
``words/``            what we say to people, one file for each language
``wire/``             bytes <-> events, no sockets, no Twisted
``accounts/``         who is local
``policy/``           what we accept
``spool/``            accepted, unfinished
``store/``            at rest
``trace/``            what became of every message
``receive/``          in
``dispatch/``         route
``deliver/``          out, local
``relay/``            out, remote
``retrieve/``         read
``admin/``            operate: the ``mailserver`` command
====================  =====================================================================

Nouns are still, verbs move: a noun folder holds values, grammar or files and never imports
Twisted; a verb folder is where Twisted lives.  ``docs/architecture.md`` tells the rest, and
``tests/test_layers.py`` holds it.
"""

__version__ = "0.1.0"
