from dataclasses import replace

from compressor.report.html import render_html
from compressor.report.moved import moved_section
from compressor.results import ClassMoved


def test_it_counts_and_shows_the_largest_change_first(reports):
    section = moved_section(reports["measured"])
    assert section.text == (
        "8 of 10 000 test examples got another answer from ONNX int8 than from ONNX fp32: 5 went from right to "
        "wrong, 1 from wrong to right, 2 from one wrong answer to another.",
    )
    first = section.tables[0].rows[0]
    assert [cell.text for cell in first] == ["class 3", "1 000", "91.9 %", "91.5 %", "−0.4"]
    # Bonett and Price (2012): p = 6/1002 lost, q = 2/1002 mended; p − q ± 1.96 × sqrt((p + q − (p − q)²) / 1002).
    assert first[-1].note == "[−1.0, +0.2]"
    assert [(e.title, e.text, e.tone, bool(e.picture), e.quote) for e in section.examples] == [
        ("Test example 17: now wrong", "class 3 → class 4, right is class 3", "bad", True, ""),
        ("Test example 99: now right", "class 1 → class 3, right is class 3", "good", False, "a text of three"),
    ]


def test_names_and_texts_of_the_data_arrive_escaped(reports):
    report = reports["measured"]
    name = "<script>alert('class')</script>"
    classes = (replace(report.confusion.classes[0], name=name), *report.confusion.classes[1:])
    flips = (replace(report.confusion.flips[1], target=name, text=f'"{name}'),)
    page = render_html(replace(report, confusion=replace(report.confusion, classes=classes, flips=flips)))
    assert "&lt;script&gt;alert(" in page
    assert "<script>alert(" not in page


def test_words_are_counted_as_words(reports):
    report = reports["measured"]
    section = moved_section(replace(report, confusion=replace(report.confusion, counted="words")))
    assert section.text[0].startswith("8 of 10 000 words got another answer")
    assert section.tables[0].columns[1].label == "Words"
    assert section.examples[0].title == "A word of test example 17: now wrong"


def test_few_examples_support_few_digits(reports):
    report = reports["measured"]
    classes = (ClassMoved("rare", 7, 5, 4, 1),)
    told = moved_section(replace(report, confusion=replace(report.confusion, classes=classes, broken=1, mended=0)))
    assert [cell.text for cell in told.tables[0].rows[0]] == ["rare", "7", "71 %", "57 %", "−14"]


def test_many_classes_are_folded_up(reports):
    report = reports["measured"]
    classes = tuple(ClassMoved(f"c{i}", 100, 90, 90, 0) for i in range(200))
    section = moved_section(replace(report, confusion=replace(report.confusion, classes=classes)))
    assert len(section.tables[0].rows) == 30
    assert section.details[0].summary == "The other 170 classes"
    assert len(section.details[0].lines) == 170


def test_no_classification_has_no_section_and_no_change_says_so(reports):
    assert moved_section(reports["no task"]) is None
    report = reports["measured"]
    still = replace(report.confusion, broken=0, mended=0, moved=0, flips=())
    assert moved_section(replace(report, confusion=still)).text == ("No answer changed on 10 000 test examples.",)
