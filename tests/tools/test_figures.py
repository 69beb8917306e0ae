"""The page of figures is made of what the tests recorded."""

import figures

REPORT = """<testsuites><testsuite>
<testcase classname="tests.test_a" name="x"><properties><property name="speed" value="3 m/s"/></properties></testcase>
<testcase classname="tests.test_b" name="y"/>
</testsuite></testsuites>"""


def test_a_recorded_figure_is_a_row_with_its_test(tmp_path):
    (tmp_path / "report.xml").write_text(REPORT)
    assert figures.figures_of(tmp_path / "report.xml") == [("speed", "3 m/s", "test_a.py")]
    assert figures.page([("speed", "3 m/s", "test_a.py")]).endswith("| speed | 3 m/s | test_a.py |\n")
