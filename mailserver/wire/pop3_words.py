"""What POP3 says to people, in their language (RFC 6856 §3).

English is what the code says; a text that is not here stays English: what only a programmer of mail
clients ever sees, for one.  ``{names}`` are filled in; response codes and numbers never change.
"""

from __future__ import annotations

from collections.abc import Mapping

from mailserver.words import LANGUAGES

__all__ = ["LANGUAGES", "Words", "language_of"]

Words = Mapping[str, str]
"""English text -> text in another language; empty for English itself."""

_TABLE: tuple[tuple[str, str, str, str], ...] = (
    # English, Turkish, Persian, Ukrainian
    ("{tag} From now on in English", "{tag} Bundan sonra Türkçe", "{tag} از این پس به فارسی", "{tag} Відтепер українською"),  # noqa: E501
    ("Goodbye", "Hoşça kalın", "خدانگهدار", "До побачення"),
    ("Begin TLS", "TLS'yi başlatın", "‏TLS را آغاز کنید", "Починайте TLS"),
    ("UTF8 enabled", "UTF8 açıldı", "‏UTF8 فعال شد", "UTF8 увімкнено"),
    ("Language listing follows:", "Diller:", "فهرست زبان‌ها:", "Перелік мов:"),
    ("Now the password: PASS password", "Şimdi parola: PASS parola", "اکنون گذرواژه: PASS گذرواژه", "Тепер пароль: PASS пароль"),  # noqa: E501
    ("Logged in, {messages} messages, {octets} octets", "Oturum açıldı, {messages} ileti, {octets} sekizli", "وارد شدید، {messages} پیام، {octets} هشت‌تایی", "Вхід виконано, повідомлень: {messages}, октетів: {octets}"),  # noqa: E501
    ("Logged in, 1 message, {octets} octets", "Oturum açıldı, 1 ileti, {octets} sekizli", "وارد شدید، ۱ پیام، {octets} هشت‌تایی", "Вхід виконано, повідомлень: 1, октетів: {octets}"),  # noqa: E501
    ("{messages} messages, {octets} octets", "{messages} ileti, {octets} sekizli", "{messages} پیام، {octets} هشت‌تایی", "Повідомлень: {messages}, октетів: {octets}"),  # noqa: E501
    ("1 message, {octets} octets", "1 ileti, {octets} sekizli", "۱ پیام، {octets} هشت‌تایی", "Повідомлень: 1, октетів: {octets}"),  # noqa: E501
    ("Message {number} marked as deleted", "{number} numaralı ileti silinmek üzere işaretlendi", "پیام {number} برای حذف نشان شد", "Повідомлення {number} позначено для видалення"),  # noqa: E501
    ("Message {number} is marked as deleted", "{number} numaralı ileti silinmek üzere işaretli", "پیام {number} برای حذف نشان شده است", "Повідомлення {number} вже позначено для видалення"),  # noqa: E501
    ("No such message, there are {count}", "Böyle bir ileti yok, {count} ileti var", "چنین پیامی نیست؛ {count} پیام هست", "Такого повідомлення немає, усього їх {count}"),  # noqa: E501
    ("some deleted messages not removed", "silinen iletilerin bazıları kaldırılamadı", "برخی از پیام‌های حذف‌شده برداشته نشدند", "деякі видалені повідомлення не вилучено"),  # noqa: E501
    ("Unknown command", "Bilinmeyen komut", "فرمان ناشناخته", "Невідома команда"),
    ("Syntax: {syntax}", "Sözdizimi: {syntax}", "نحو: {syntax}", "Синтаксис: {syntax}"),
    ("Line too long", "Satır çok uzun", "سطر بیش از اندازه بلند است", "Рядок задовгий"),
    ("Too many wrong commands", "Çok fazla hatalı komut", "فرمان‌های نادرست بسیار", "Забагато хибних команд"),
    ("STLS is not available here", "STLS burada kullanılamaz", "‏STLS اینجا در دسترس نیست", "STLS тут недоступний"),  # noqa: E501
    ("Already logged in", "Oturum zaten açık", "پیش‌تر وارد شده‌اید", "Вхід уже виконано"),
    ("Start TLS first: STLS", "Önce TLS'yi başlatın: STLS", "نخست TLS را آغاز کنید: STLS", "Спершу почніть TLS: STLS"),  # noqa: E501
    ("TLS is active already", "TLS zaten etkin", "‏TLS فعال است", "TLS уже діє"),
    ("Log in first: USER name, then PASS password", "Önce oturum açın: USER ad, sonra PASS parola", "نخست وارد شوید: USER نام، سپس PASS گذرواژه", "Спершу увійдіть: USER ім'я, потім PASS пароль"),  # noqa: E501
    ("Name first: USER name", "Önce ad: USER ad", "نخست نام: USER نام", "Спершу ім'я: USER ім'я"),
    ("Expected one of these mechanisms: {mechanisms}", "Şu yöntemlerden biri beklendi: {mechanisms}", "یکی از این سازوکارها پذیرفته است: {mechanisms}", "Очікувався один із механізмів: {mechanisms}"),  # noqa: E501
    ("Cancelled", "İptal edildi", "لغو شد", "Скасовано"),
    ("There is no such language here; LANG lists those that there are", "Bu dil burada yok; LANG var olanları listeler", "این زبان اینجا نیست؛ LANG زبان‌های موجود را نشان می‌دهد", "Такої мови тут немає; LANG перелічує наявні"),  # noqa: E501
    ("Wrong user name or password", "Kullanıcı adı veya parola yanlış", "نام کاربری یا گذرواژه نادرست است", "Хибне ім'я користувача або пароль"),  # noqa: E501
    ("Passwords cannot be checked now", "Parolalar şu anda denetlenemiyor", "اکنون نمی‌توان گذرواژه‌ها را بررسی کرد", "Зараз неможливо перевірити паролі"),  # noqa: E501
    ("Another session has the maildrop", "Posta kutusu başka bir oturumda açık", "نشست دیگری صندوق را در دست دارد", "Скриньку зайняв інший сеанс"),  # noqa: E501
    ("Another session takes the maildrop over", "Posta kutusunu başka bir oturum devralıyor", "نشست دیگری صندوق را به دست می‌گیرد", "Скриньку переймає інший сеанс"),  # noqa: E501
    ("The maildrop cannot be opened now", "Posta kutusu şu anda açılamıyor", "اکنون نمی‌توان صندوق را باز کرد", "Зараз неможливо відкрити скриньку"),  # noqa: E501
    ("Logged in, the maildrop is being opened", "Oturum açıldı, posta kutusu açılıyor", "وارد شدید؛ صندوق در حال باز شدن است", "Вхід виконано, скринька відкривається"),  # noqa: E501
    ("The maildrop cannot be opened; the postmaster has to mend it", "Posta kutusu açılamıyor; posta yöneticisinin onarması gerekiyor", "صندوق باز نمی‌شود؛ مدیر پست باید آن را درست کند", "Скриньку неможливо відкрити; її має полагодити адміністратор пошти"),  # noqa: E501
    ("You have logged in a moment ago; wait {seconds} s between log-ins", "Az önce oturum açtınız; iki oturum arasında {seconds} sn bekleyin", "اندکی پیش وارد شده‌اید؛ میان دو ورود {seconds} ثانیه درنگ کنید", "Ви щойно входили; чекайте {seconds} с між входами"),  # noqa: E501
    ("The message is gone: another program has removed it", "İleti yok: başka bir program onu kaldırdı", "پیام دیگر نیست: برنامهٔ دیگری آن را برداشته است", "Повідомлення зникло: його вилучила інша програма"),  # noqa: E501
    ("The message cannot be read now", "İleti şu anda okunamıyor", "اکنون نمی‌توان پیام را خواند", "Зараз неможливо прочитати повідомлення"),  # noqa: E501
    ("The server is stopping", "Sunucu kapanıyor", "کارساز در حال ایستادن است", "Сервер зупиняється"),
    ("Idle for too long, nothing was deleted", "Çok uzun süre sessiz kalındı, hiçbir şey silinmedi", "درنگ بیش از اندازه بود؛ چیزی حذف نشد", "Задовга бездіяльність, нічого не видалено"),  # noqa: E501
    ("Nobody has logged in for too long", "Uzun süredir kimse oturum açmadı", "زمانی دراز کسی وارد نشد", "Надто довго ніхто не входив"),  # noqa: E501
)  # fmt: skip

_WORDS: dict[str, Words] = {
    "en": {},
    **{tag: {row[0]: row[n] for row in _TABLE} for n, tag in enumerate(("tr", "fa", "uk"), 1)},
}


def language_of(tag: str) -> tuple[str, Words] | None:
    """The language for a tag as LANG gives it, and its words; ``None`` when there is none.

    ``*`` is the default; ``uk-UA`` is served by ``uk`` (RFC 4647 §3.4).
    """
    wanted = tag.lower()
    if wanted == "*":
        return "en", {}
    while wanted:
        if wanted in _WORDS:
            return wanted, _WORDS[wanted]
        wanted = wanted.rpartition("-")[0]
    return None
