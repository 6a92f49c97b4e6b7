"""What we say to people, in English."""

TEXTS = {
    "moment": "%Y-%m-%d %H:%M %z",
    # Reports about messages (dispatch/bounce_words.py)
    "failed.subject": "Your message could not be delivered",
    "delayed.subject": "Your message is delayed, and we keep trying",
    "delivered.subject": "Your message was delivered",
    "relayed.subject": "Your message was handed to a server that sends no reports",
    "expanded.subject": "Your message was sent on to the members of a list",
    "whom.one": "the recipient below",
    "whom.many": "the {count} recipients below",
    "failed": "Your message could not be delivered to {whom}: {why}",
    "failed.details": "The message is that of {date}. {hostname} will not try again.",
    "delayed": "Your message of {date} could not yet be delivered to {whom}; you need not do anything, for"
    " {hostname} keeps trying, and tells you if it gives up.",
    "delayed.until": "Your message of {date} could not yet be delivered to {whom}; you need not do anything,"
    " for {hostname} keeps trying until {end}, and tells you if it gives up.",
    "delivered": "Your message of {date} was delivered to the mailbox of {whom}.",
    "relayed": "Your message of {date} was taken over by the server of {whom}. That server does not report"
    " deliveries, so this is the last that you hear of it unless something goes wrong.",
    "expanded": "Your message of {date} was sent on to everybody who stands behind {whom}. Their deliveries"
    " are not reported, only failures if you asked for them.",
    "answered": "{host} answered: ",
    "more": "... and {count} more, listed in the next part.",
    "why.several": "the reasons differ and stand below, with what you can do.",
    "why.other": "the reason below is for the postmaster of the other side; please send it along if you ask"
    " for help.",
    "why.no_user": "there is no mailbox of that name; please look for a typing mistake in the address, or ask"
    " the recipient for the right one by another way.",
    "why.no_domain": "the domain, the part after the @, does not exist or has no mail server; please look for"
    " a typing mistake in the address.",
    "why.no_mail": "the domain, the part after the @, says that it takes no mail; please ask the recipient"
    " for another address.",
    "why.bad_address": "the recipient's server cannot read the address; please look for a typing mistake in"
    " it.",
    "why.moved": "the recipient has another address now; please ask for it by another way.",
    "why.closed": "the mailbox is closed; please ask the recipient for another address.",
    "why.full": "the recipient's mailbox is full; please send the message again later, or tell the recipient"
    " by another way.",
    "why.too_big": "the message is larger than the recipient's server takes; please send it without large"
    " attachments.",
    "why.expired": "the other server could not take the message for days; please send it again later, or"
    " reach the recipient by another way.",
    "why.time_over": "it could not be delivered in the time that it was given; please send it again if it"
    " still matters.",
    "why.loop": "it went round in a circle between servers; please tell the postmaster of the recipient's"
    " domain.",
    "why.alphabet": "a server on the way cannot handle addresses with letters of this alphabet; please ask"
    " the recipient for another address.",
    "why.form": "a server on the way cannot handle the form in which it was written; please send it again as"
    " plain text, or without attachments.",
    "why.tls": "the way to the recipient's server is not protected as it must be for this message; please"
    " reach the recipient by another way, or send it without that demand.",
    "why.postmaster": "the postmaster here has returned it, for the reason below; please ask there if you"
    " think that it is a mistake.",
    "why.policy": "the recipient's server refused it by a rule of its own, and the reason below may say"
    " which; please reach the recipient, or the postmaster there, by another way.",
    # A mailbox that is nearly full (store/quota_notice.py)
    "quota.subject": "Your mailbox is {percent} % full",
    "quota.text": """\
Your mailbox has reached {percent} % of the room that it may take on {hostname}.

When it is full, no more mail can be delivered to it. Please remove messages that you do
not need any more; with a program that keeps copies on the server, shorten the time for
which it does.
""",
    # Mail that is held (policy/submission_notice.py)
    "hold.subject": "Your mail is held: too much in too short a time",
    "hold.text": """\
Mail from {account} is held by {hostname} and does not leave:

    {reason}.

Nothing is lost, and whatever is sent from now on is held too. If you did
not send that much yourself, somebody may know your password: change it
now, and tell your administrator.
""",
    "hold.administrator": "For the administrator:",
    "hold.list": "shows what is held",
    "hold.release": "sends it, and ends the hold",
    "hold.remove": "drops it, and ends the hold",
    "hold.password": "locks out whoever knew the old one",
    "away.subject": "I am away",
    "away": "{address} is away and cannot read your message now. It has been kept.",
    "away.until": "{address} is away and will read your message after {end}. It has been kept.",
}
