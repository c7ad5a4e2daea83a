"""A small CLEF 2003 as ELRA delivers it: every source's tags, order of the text and encoding, two or three documents each."""

from __future__ import annotations

from pathlib import Path

DOCUMENTS = {
    "English_data/LATimes94/la010194": """<DOC>
<DOCNO> LA010194-0001 </DOCNO>
<DOCID> 000001 </DOCID>
<HEADLINE>
<P>
TIDES &amp; MOON
</P>
</HEADLINE>
<TEXT>
<P>
The tide rises
twice a day.
</P>
<P>
So they say.
</P>
</TEXT>
</DOC>
<DOC>
<DOCNO> LA010194-0002 </DOCNO>
<DOCID> 000002 </DOCID>
<TEXT>
<P>
Without a headline.
</P>
</TEXT>
</DOC>
""",
    "English_data/GlasgowHerald95/GH95/GH950103.sgml": """<DOC>
<DOCNO>GH950103-000000</DOCNO>
<DOCID>GH950103-000000</DOCID>
<HEADLINE>Chess final in Glasgow</HEADLINE>
<TEXT>The champion played e4.</TEXT>
</DOC>
""",
    "German_data/der_spiegel/spiegel94.sgml": """<DOC>
<DOCNO>SPIEGEL-1</DOCNO>
<DOCID>SPIEGEL-1</DOCID>
<TITLE>Ebbe und Flut</TITLE>
<LEAD>Der Mond zieht das Meer.</LEAD>
<TEXT>Zweimal am Tag fällt das Wasser.</TEXT>
<TEXT>Dann steigt es.</TEXT>
</DOC>
""",
    "German_data/fr_rundschau/fr94.sgml": """<DOC>
<DOCNO>FR-1</DOCNO>
<DOCID>FR-1</DOCID>
<TITLE>Schach</TITLE>
<TEXT>Der Läufer schlägt den Turm.</TEXT>
</DOC>
""",
    "German_data/sda_german/sda94.sgml": """<DOC>
<DOCNO>SDA.940101.0001</DOCNO>
<DOCID>SDA.940101.0001</DOCID>
<KW>Meer</KW>
<TI>Die Flut kommt</TI>
<LD>Hamburg (sda)</LD>
<TX>Das Wasser steigt.</TX>
<TX>Die Küste wartet.</TX>
</DOC>
""",
    "German_data/sda95/sda95.sgml": """<DOC>
<DOCNO>SDA.950101.0001</DOCNO>
<DOCID>SDA.950101.0001</DOCID>
<TI>Ein Titel</TI>
<TX>Ein Text.</TX>
</DOC>
""",
    "Italian_data/la_stampa/st940101.sgml": """<DOC>
<DOCNO>LASTAMPA94-1</DOCNO>
<DOCID>LASTAMPA94-1</DOCID>
<TITLE>Maree</TITLE>
<TEXT>La marea è alta.</TEXT>
</DOC>
""",
    "Italian_data/sda_italian/agz94.sgml": """<DOC>
<DOCNO>AGZ.940101.0001</DOCNO>
<DOCID>AGZ.940101.0001</DOCID>
<TI>Scacchi</TI>
<LD>Lugano</LD>
<TX>La partita è finita.</TX>
</DOC>
""",
    "Italian_data/agz95/agz95.sgml": """<DOC>
<DOCNO>AGZ.950101.0001</DOCNO>
<DOCID>AGZ.950101.0001</DOCID>
<TI>Pane</TI>
<TX>Il pane è pronto.</TX>
</DOC>
""",
    "Finnish_data/aamu/aamu94.sgml": """<DOC>
<DOCNO>AAMU19940101-000001</DOCNO>
<DOCID>AAMU19940101-000001</DOCID>
<TEXT>Vesi nousee yöllä.</TEXT>
</DOC>
""",
    "Russian_data/xml/izv1995.xml": """<?xml version="1.0" encoding="UTF-8"?>
<IZV>
<DOC>
<DOCNO>IZ950101-0001</DOCNO>
<DOCID>IZ950101-0001</DOCID>
<TITLE>Прилив</TITLE>
<SUBJECT>Море</SUBJECT>
<TEXT>Вода поднимается дважды в день.</TEXT>
</DOC>
</IZV>
""",
}
TITLES = {
    "en": ("Tides", "Find documents about the tides."), "de": ("Gezeiten", "Suche Dokumente über Ebbe und Flut."),
    "fi": ("Vuorovesi", "Etsi asiakirjoja vuorovedestä yöllä."), "it": ("Maree", "Perché c'è la marea?"),
    "ru": ("Приливы", "Найти документы о приливах."),
}  # fmt: skip
QRELS = {
    "english": "141 0 LA010194-0001 1\n141 0 GH950103-000000 0\n142 0 GH950103-000000 1\n",
    "german": "141 0 SPIEGEL-1 1\n141 0 SDA.940101.0001 1\n141 0 FR-1 0\n142 0 FR-1 1\n",
    "finnish": "141 0 AAMU19940101-000001 1\n142 0 AAMU19940101-000001 0\n",
    "italian": "141 0 LASTAMPA94-1 1\n",
    "russian": "141  0  IZ950101-0001  1\n",
}


def encoding(name: str) -> str:
    return "utf-8" if "Russian" in name or "-ru" in name else "iso-8859-1"


def topics(lang: str, first: int = 141) -> str:
    """Two topics of 2003, as CLEF writes them: the first on tides, the second without a narrative."""
    title, description = TITLES[lang]
    tag = lang.upper()
    return (
        f"<top>\n<num> C{first} </num>\n<{tag}-title> {title} </{tag}-title>\n<{tag}-desc> {description}\n</{tag}-desc>\n"
        f"<{tag}-narr> Only the sea.\nNot lakes. </{tag}-narr>\n</top>\n\n"
        f"<top>\n<num> C{first + 1} </num>\n<{tag}-title> Chess </{tag}-title>\n<{tag}-desc> Chess &amp; more </{tag}-desc>\n</top>\n"
    )


def write(root: Path) -> Path:
    """The folder that dataset.path names."""
    for name, text in DOCUMENTS.items():
        path = root / "DocumentData" / "DataCollections" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode(encoding(name)))
    (root / "DocumentData" / "DataCollections" / "German_data" / "der_spiegel" / "spiegel.dtd").write_text(
        "<!ELEMENT DOC>"
    )
    (root / "Topics" / "topics2003").mkdir(parents=True)
    (root / "RelAssess" / "2003").mkdir(parents=True)
    for lang in TITLES:
        name = f"Top-{lang}03.txt"
        (root / "Topics" / "topics2003" / name).write_bytes(topics(lang).encode(encoding(name)))
    for name, text in QRELS.items():
        (root / "RelAssess" / "2003" / f"qrels_{name}").write_text(text)
    return root
