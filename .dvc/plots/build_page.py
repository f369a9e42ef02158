"""Build ``page.html``, the page of `dvc plots show` that needs no network; run it when vl-convert's version changes.

DVC's own page fetches Vega from a server, and is blank without one. This one holds it. DVC puts its figures where
``{plot_divs}`` stands and, on request, a refresh tag where ``{refresh_tag}`` stands.
"""

from pathlib import Path

import vl_convert

VEGA_LITE = "5.21"  # the version whose schema the templates name

# Crisp drawing, and a menu without links to servers. vl-convert knows vegaEmbed by this name.
EMBED = """
const options = {
  renderer: "svg",
  actions: {export: true, source: false, compiled: false, editor: false},
  config: {title: {anchor: "start", fontSize: 14, offset: 10}, axis: {gridOpacity: 0.6}},
}
window.vegaEmbed = (place, figure) => vegaEmbed(place, figure, options)
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>Real faces from generated ones: figures</title>
<style>
body { max-width: 1240px; margin: 0 auto; padding: 1.5rem; font: 15px/1.5 system-ui, sans-serif; color: #222; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; }
header p { max-width: 50rem; margin: 0 0 .6rem; }
header { color: #333; }
main { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 2rem 2.5rem; margin: 1.5rem 0; }
main > div { max-width: 100%; overflow-x: auto; border: 0 !important; }
</style>
<script>
(() => {
BUNDLE
})();
</script>
</head>
<body>
<header>
<h1>Real faces from generated ones</h1>
<p>Each detector has one colour in all figures that show several. Fake is the positive class: a score is P(fake), and
recall is the share of fakes found. Figures of test images were made after training, with the threshold chosen on the
validation images; training curves of fine-tuned detectors are of random crops, those of baselines of whole faces.</p>
<p>When revisions are compared (<code>dvc plots diff</code>), dashes, shapes or rows tell them apart. Point at a figure
for its numbers; drag moves a curve, shift and the wheel zoom, a double click brings it back.</p>
</header>
<main>
{plot_divs}
</main>
</body>
</html>
"""


def page() -> str:
    """The page, as the installed vl-convert makes it."""
    bundle = vl_convert.javascript_bundle(EMBED, vl_version=VEGA_LITE)
    return PAGE.replace("BUNDLE", bundle.replace("</script", "<\\/script"))


if __name__ == "__main__":
    Path(__file__).with_name("page.html").write_text(page(), encoding="utf-8")
