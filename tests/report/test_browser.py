"""A real browser opens the pages: nothing overflows at any width, and nothing is complained of."""

import html
import json
import re
import subprocess

import pytest

from compressor.report.pdf import find_browser

WIDTHS = (1280, 794, 390)
_PAGE = """<!doctype html><meta charset="utf-8"><pre id="out"></pre>{frames}<script>
onload = () => {{
  const found = [...document.querySelectorAll("iframe")].map((frame) => {{
    const page = frame.contentDocument, wide = page.documentElement;
    const clear = (e) => !e.closest(".scroll, pre, .unseen, svg");
    const over = [...page.querySelectorAll("main *")].filter((e) => clear(e) &&
      e.getBoundingClientRect().right > wide.clientWidth + 1).map((e) => e.tagName + "." + e.className);
    return [frame.title, wide.scrollWidth - wide.clientWidth, over.slice(0, 5), page.images.length,
      [...page.images].every((i) => i.naturalWidth > 0)];
  }});
  document.getElementById("out").textContent = JSON.stringify(found);
}};
</script>"""


@pytest.mark.skipif(find_browser() is None, reason="not run: there is no Chromium on this machine")
def test_pages_fit_every_width_and_the_console_is_silent(pages, tmp_path):
    cases = ("measured", "nothing measured", "hostile")
    frames = []
    for case in cases:
        file = tmp_path / f"{case.replace(' ', '-')}.html"
        file.write_text(pages[case], encoding="utf-8")
        frames += [f'<iframe title="{case} {w}" src="{file.name}" width="{w}" height="900"></iframe>' for w in WIDTHS]
    (tmp_path / "all.html").write_text(_PAGE.format(frames="".join(frames)), encoding="utf-8")
    command = [
        find_browser(), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--virtual-time-budget=10000",
        f"--user-data-dir={tmp_path}/profile", "--dump-dom", (tmp_path / "all.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    told = re.search(r'<pre id="out">(.*?)</pre>', done.stdout.decode(), re.DOTALL)
    assert told, done.stderr.decode()[-2000:]
    found = json.loads(html.unescape(told[1]))
    assert len(found) == len(cases) * len(WIDTHS)
    for name, excess, over, pictures, loaded in found:
        assert (excess, over) == (0, []), name
        assert loaded
        assert pictures == 1, name
    assert "CONSOLE" not in done.stderr.decode()
