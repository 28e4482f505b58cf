#!/usr/bin/env python3
"""Make libmodel/tok/unicode_data.c: where the Unicode data of Hugging Face's
tokenizers differ from utf8proc's, found by asking the library about every code
point.

    python3 tests/make_unicode.py

Needs tokenizers and regex. The parts of that library stand on Unicode data of
different ages (its regexes on 16, its normal forms on 12, its punctuation on 8);
a tokenizer that was trained with it needs the same.
"""
import pathlib
import unicodedata

import regex
from tokenizers import Regex, normalizers as N, pre_tokenizers as P

OUT = pathlib.Path(__file__).resolve().parent.parent / "libmodel" / "tok" / "unicode_data.c"
CPS = [c for c in range(0x110000) if not 0xd800 <= c < 0xe000]
ALL = "".join(map(chr, CPS))
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co".split()


def removed_by(pre):
    left = set()
    for piece, _ in pre.pre_tokenize_str(ALL):
        left.update(map(ord, piece))
    return set(CPS) - left


def ranges(codes):
    out = []
    for c in sorted(codes):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def category_of():
    gc = {}
    for name in CATEGORIES:
        if name != "Cs":
            for c in removed_by(P.Split(Regex(r"\p{%s}" % name), "removed")):
                gc[c] = name
    return gc


def scripts():
    """By the library's answers: 0 joins anything; others are numbered."""
    names = SCRIPTS
    by_name = {}
    for name in names:
        try:
            r = regex.compile(r"\p{Script=%s}" % name)
        except regex.error:
            continue
        for m in r.finditer(ALL):
            by_name[ord(m.group())] = name
    pre = P.UnicodeScripts()

    def split_after(lead):
        text = "".join(lead + chr(c) + " " for c in CPS)
        starts = {b for _, (b, _) in pre.pre_tokenize_str(text)}
        return {c for i, c in enumerate(CPS) if 3 * i + 1 in starts}
    joins = set(CPS) - split_after("a") - split_after("\u03b1")
    ids, table = {}, {}
    for c in CPS:
        name = "Han" if by_name.get(c) in ("Hiragana", "Katakana") or c == 0x30fc else by_name.get(c, "Unknown")
        table[c] = 0 if c in joins else ids.setdefault(name, len(ids) + 1)
    return table


SCRIPTS = """Adlam Ahom Anatolian_Hieroglyphs Arabic Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali Bhaiksuki
Bopomofo Brahmi Braille Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian Chakma Cham Cherokee Chorasmian Common
Coptic Cuneiform Cypriot Cypro_Minoan Cyrillic Deseret Devanagari Dives_Akuru Dogra Duployan Egyptian_Hieroglyphs Elbasan
Elymaic Ethiopic Georgian Glagolitic Gothic Grantha Greek Gujarati Gunjala_Gondi Gurmukhi Han Hangul Hanifi_Rohingya Hanunoo
Hatran Hebrew Hiragana Imperial_Aramaic Inherited Inscriptional_Pahlavi Inscriptional_Parthian Javanese Kaithi Kannada
Katakana Kayah_Li Kharoshthi Khitan_Small_Script Khmer Khojki Khudawadi Lao Latin Lepcha Limbu Linear_A Linear_B Lisu Lycian
Lydian Mahajani Makasar Malayalam Mandaic Manichaean Marchen Masaram_Gondi Medefaidrin Meetei_Mayek Mende_Kikakui
Meroitic_Cursive Meroitic_Hieroglyphs Miao Modi Mongolian Mro Multani Myanmar Nabataean Nandinagari New_Tai_Lue Newa Nko
Nushu Nyiakeng_Puachue_Hmong Ogham Ol_Chiki Old_Hungarian Old_Italic Old_North_Arabian Old_Permic Old_Persian Old_Sogdian
Old_South_Arabian Old_Turkic Old_Uyghur Oriya Osage Osmanya Pahawh_Hmong Palmyrene Pau_Cin_Hau Phags_Pa Phoenician
Psalter_Pahlavi Rejang Runic Samaritan Saurashtra Sharada Shavian Siddham SignWriting Sinhala Sogdian Sora_Sompeng Soyombo
Sundanese Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le Tai_Tham Tai_Viet Takri Tamil Tangsa Tangut Telugu Thaana Thai Tibetan
Tifinagh Tirhuta Toto Ugaritic Vai Vithkuqi Wancho Warang_Citi Yezidi Yi Zanabazar_Square""".split()


def vanish(normalizer):
    return {c for c in CPS if normalizer.normalize_str(chr(c)) == ""}


def lower_ranges():
    """(first, last, what to add) where Python's Unicode 14 has no lower case and the library's has."""
    out, lower = [], N.Lowercase()
    for c in CPS:
        got = lower.normalize_str(chr(c))
        if got != chr(c).lower() and len(got) == 1:
            delta = ord(got) - c
            if out and out[-1][1] == c - 1 and out[-1][2] == delta:
                out[-1][1] = c
            else:
                out.append([c, c, delta])
    return out


def lines(items, per_line=6):
    return "".join("    " + " ".join(items[i:i + per_line]) + "\n" for i in range(0, len(items), per_line))


def rows(name, codes):
    body = lines([f"{{0x{a:x}, 0x{b:x}}}," for a, b in ranges(codes)])
    return f"const struct lmi_range {name}[] = {{\n{body}    {{UINT32_MAX, 0}},\n}};\n"


def main():
    gc = category_of()
    marks = {c for c in CPS if gc.get(c, "")[:1] == "M"}
    ascii_punctuation = {c for c in range(33, 127) if not chr(c).isalnum()}
    punctuation = {c for c in CPS if gc.get(c, "")[:1] == "P"} | ascii_punctuation
    other = {c for c in CPS if gc.get(c) in ("Cc", "Cf", "Co")}
    newer = [(c, gc[c]) for c in CPS if c in gc and gc[c] != unicodedata.category(chr(c))]
    categories = []
    for c, name in newer:
        if categories and categories[-1][1] == c - 1 and categories[-1][2] == name:
            categories[-1][1] = c
        else:
            categories.append([c, c, name])

    bert = dict(handle_chinese_chars=False, lowercase=False)
    old_punctuation = removed_by(P.Punctuation("removed"))
    old_marks = vanish(N.BertNormalizer(clean_text=False, strip_accents=True, **bert))
    stripped = vanish(N.StripAccents())
    cleaned = vanish(N.BertNormalizer(clean_text=True, strip_accents=False, **bert))
    nfkd = N.NFKD()
    unmapped = {c for c in CPS if nfkd.normalize_str(chr(c)) == chr(c) and unicodedata.normalize("NFKD", chr(c)) != chr(c)}
    unmapped |= set(range(0x1e030, 0x1e06e))  # of Unicode 15: utf8proc maps them, Python's tables do not know them yet
    mn = {c for c in CPS if gc.get(c) == "Mn"}
    assert old_punctuation - punctuation == {0x166d, 0x111c9}
    assert old_marks - mn == {0x1734, 0x1171e}
    assert stripped - marks == {0x1cf2, 0x1cf3}
    assert cleaned - other == {0xfffd}
    assert 0 in cleaned

    text = ["/* Made by tests/make_unicode.py: where Hugging Face's tokenizers see Unicode\n"
            " * differently from utf8proc, and the scripts as its UnicodeScripts tells them apart. */\n"
            '#include "libmodel/tok/unicode.h"\n\n']
    text.append("/* Categories given after Unicode 14. */\nconst struct lmi_category_range lmi_newer_categories[] = {\n"
                + lines([f'{{0x{a:x}, 0x{b:x}, "{n}"}},' for a, b, n in categories], 4) + '    {UINT32_MAX, 0, ""},\n};\n\n')
    text.append("/* Punctuation now, not in Unicode 8. */\n" + rows("lmi_newer_punctuation", punctuation - old_punctuation) + "\n")
    text.append("/* Mn now, not in Unicode 8. */\n" + rows("lmi_newer_nonspacing", mn - old_marks) + "\n")
    text.append("/* Cc, Cf and Co that BertNormalizer keeps. */\n" + rows("lmi_kept_other", other - cleaned) + "\n")
    text.append("/* Marks and compatibility characters newer than Unicode 12: to the normal forms they are plain. */\n"
                + rows("lmi_newer_than_12", (marks - stripped) | unmapped | {0x11938}) + "\n")
    text.append("/* Lower case newer than Unicode 14. */\nconst struct lmi_lower_range lmi_newer_lower[] = {\n"
                + "".join(f"    {{0x{a:x}, 0x{b:x}, {d}}},\n" for a, b, d in lower_ranges()) + "    {UINT32_MAX, 0, 0},\n};\n\n")
    table, starts = scripts(), []
    for c in CPS:
        if not starts or starts[-1][1] != table[c]:
            starts.append([c, table[c]])
    text.append("/* From where on which script; 0 joins any. Hiragana and Katakana are Han. */\n"
                "const struct lmi_script_start lmi_scripts[] = {\n"
                + lines([f"{{0x{c:x}, {s}}}," for c, s in starts], 8) + f"}};\nconst size_t lmi_n_scripts = {len(starts)};\n")
    OUT.write_text("".join(text), encoding="utf-8")
    print(OUT, len(starts), "script runs")


main()
