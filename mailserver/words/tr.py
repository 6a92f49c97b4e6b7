"""What we say to people, in Turkish."""

TEXTS = {
    "moment": "%d.%m.%Y %H:%M %z",
    "failed.subject": "İletiniz teslim edilemedi",
    "delayed.subject": "İletiniz gecikti, denemeyi sürdürüyoruz",
    "delivered.subject": "İletiniz teslim edildi",
    "relayed.subject": "İletiniz, bildirim göndermeyen bir sunucuya aktarıldı",
    "expanded.subject": "İletiniz bir listenin üyelerine gönderildi",
    "whom.one": "aşağıdaki alıcıya",
    "whom.many": "aşağıdaki {count} alıcıya",
    "failed": "İletiniz {whom} teslim edilemedi: {why}",
    "failed.details": "İletinin tarihi: {date}. {hostname} bir daha denemeyecek.",
    "delayed": "İletiniz ({date}) {whom} henüz teslim edilemedi; bir şey yapmanız gerekmiyor: {hostname}"
    " denemeyi sürdürüyor, vazgeçerse size bildirecek.",
    "delayed.until": "İletiniz ({date}) {whom} henüz teslim edilemedi; bir şey yapmanız gerekmiyor:"
    " {hostname}, {end} tarihine kadar denemeyi sürdürecek ve vazgeçerse size bildirecek.",
    "delivered": "İletiniz ({date}) {whom} teslim edildi ve posta kutusuna kondu.",
    "relayed": "İletiniz ({date}) {whom} ait sunucuya aktarıldı. O sunucu teslimatları bildirmez; bir"
    " aksaklık olmadıkça başka haber almayacaksınız.",
    "expanded": "İletiniz ({date}) {whom} bağlı herkese gönderildi. Onlara yapılan teslimatlar bildirilmez;"
    " istediyseniz yalnızca hatalar bildirilir.",
    "answered": "{host} şöyle yanıtladı: ",
    "more": "... ve {count} alıcı daha; tümü sonraki bölümde listelenmiştir.",
    "why.several": "nedenler farklı; her biri, ne yapabileceğinizle birlikte aşağıda yazıyor.",
    "why.other": "aşağıdaki neden, karşı tarafın posta yöneticisi içindir; yardım isterken lütfen onu da"
    " iletin.",
    "why.no_user": "bu adda bir posta kutusu yok; lütfen adreste yazım hatası olup olmadığına bakın ya da"
    " doğru adresi alıcıya başka bir yoldan sorun.",
    "why.no_domain": "alan adı, yani @ işaretinden sonraki bölüm, mevcut değil ya da posta sunucusu yok;"
    " lütfen adreste yazım hatası olup olmadığına bakın.",
    "why.no_mail": "alan adı, yani @ işaretinden sonraki bölüm, posta almadığını bildiriyor; lütfen alıcıdan"
    " başka bir adres isteyin.",
    "why.bad_address": "alıcının sunucusu adresi okuyamıyor; lütfen adreste yazım hatası olup olmadığına"
    " bakın.",
    "why.moved": "alıcının artık başka bir adresi var; lütfen yeni adresi başka bir yoldan sorun.",
    "why.closed": "posta kutusu kapatılmış; lütfen alıcıdan başka bir adres isteyin.",
    "why.full": "alıcının posta kutusu dolu; lütfen iletiyi daha sonra yeniden gönderin ya da alıcıya başka"
    " bir yoldan haber verin.",
    "why.too_big": "ileti, alıcının sunucusunun kabul ettiğinden büyük; lütfen büyük ekler olmadan gönderin.",
    "why.expired": "karşı sunucu iletiyi günlerce alamadı; lütfen daha sonra yeniden gönderin ya da alıcıya"
    " başka bir yoldan ulaşın.",
    "why.time_over": "ileti, kendisine tanınan sürede teslim edilemedi; hâlâ gerekliyse lütfen yeniden"
    " gönderin.",
    "why.loop": "ileti sunucular arasında dönüp durdu; lütfen alıcının alan adının posta yöneticisine"
    " bildirin.",
    "why.alphabet": "yol üzerindeki bir sunucu bu alfabenin harfleriyle yazılmış adresleri işleyemiyor;"
    " lütfen alıcıdan başka bir adres isteyin.",
    "why.form": "yol üzerindeki bir sunucu iletinin yazıldığı biçimi işleyemiyor; lütfen düz metin olarak"
    " ya da eksiz yeniden gönderin.",
    "why.tls": "alıcının sunucusuna giden yol, bu ileti için gerektiği gibi korunmuyor; lütfen alıcıya başka"
    " bir yoldan ulaşın ya da iletiyi bu koşul olmadan gönderin.",
    "why.postmaster": "buradaki posta yöneticisi iletiyi aşağıdaki nedenle geri gönderdi; bunun yanlışlık"
    " olduğunu düşünüyorsanız lütfen ona sorun.",
    "why.policy": "alıcının sunucusu iletiyi kendi kurallarından biri nedeniyle geri çevirdi; hangisi"
    " olduğu aşağıdaki nedenden anlaşılabilir. Lütfen alıcıya ya da oradaki posta yöneticisine başka bir"
    " yoldan ulaşın.",
    "quota.subject": "Posta kutunuz %{percent} dolu",
    "quota.text": """\
Posta kutunuz, {hostname} üzerinde kaplayabileceği yerin %{percent} kadarını doldurdu.

Dolduğunda yeni posta teslim edilemez. Lütfen artık gerekmeyen iletileri silin; kullandığınız
program iletilerin kopyasını sunucuda tutuyorsa, tutma süresini kısaltın.
""",
    "hold.subject": "Postanız bekletiliyor: kısa sürede çok fazla gönderim",
    "hold.text": """\
{account} adresinden gönderilen posta {hostname} tarafından bekletiliyor ve gönderilmiyor:

    {reason}.

Hiçbir şey kaybolmadı; bundan sonra gönderilenler de bekletilir. Bu kadar çok iletiyi
siz göndermediyseniz birisi parolanızı biliyor olabilir: parolanızı hemen değiştirin ve
yöneticinize haber verin.
""",
    "hold.administrator": "Yönetici için:",
    "hold.list": "bekletilenleri gösterir",
    "hold.release": "gönderir ve bekletmeyi bitirir",
    "hold.remove": "siler ve bekletmeyi bitirir",
    "hold.password": "eski parolayı bilenleri dışarıda bırakır",
    "away.subject": "Şu anda uzaktayım",
    "away": "{address} şu anda uzakta, iletinizi okuyamıyor. İletiniz saklandı.",
    "away.until": "{address} şu anda uzakta; iletinizi {end} tarihinden sonra okuyacak. İletiniz saklandı.",
}
