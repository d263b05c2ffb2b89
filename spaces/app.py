"""A Space: draw networks from a hyper-representation and see what they are worth.

pip install "hyperrep[demo]" && python spaces/app.py
"""

import shutil
import tempfile
from pathlib import Path

import gradio as gr
from show import MOST_NETWORKS, REPRESENTATIONS, methods, show

from hyperrep.errors import UserError


def draw(representation: str, method: str, target: float, count: int, seed: int):
    """Figure, table, words, and a ZIP of the checkpoints."""
    try:
        shown = show(representation, method, target, count, seed)
    except UserError as error:
        raise gr.Error(str(error)) from error
    folder = Path(tempfile.mkdtemp())
    shown.networks.save_pretrained(folder / "samples")
    archive = shutil.make_archive(str(folder / "samples"), "zip", folder / "samples")
    return shown.figure, shown.table, shown.about, archive


def build() -> gr.Blocks:
    with gr.Blocks(title="hyperrep") as app:
        gr.Markdown(
            "# Networks that nobody trained\n"
            "A hyper-representation learned from a population of small networks. Draw new ones from its latents, test "
            "them at once and after one epoch of training, beside random starts."
        )
        with gr.Row():
            with gr.Column():
                representation = gr.Dropdown(
                    list(REPRESENTATIONS), value=REPRESENTATIONS[0], label="representation", allow_custom_value=True
                )
                method = gr.Dropdown(methods(), value="kde", label="method")
                target = gr.Slider(0, 1, value=1, label="accuracy asked for (0: the worst third, 1: the best)")
                count = gr.Slider(4, MOST_NETWORKS, value=20, step=1, label="networks")
                seed = gr.Number(0, precision=0, label="seed")
                button = gr.Button("Draw", variant="primary")
            with gr.Column():
                table = gr.Dataframe(
                    headers=["epoch", "generated: accuracy, %", "random starts: accuracy, %"], label="accuracy"
                )
                about = gr.Markdown()
                archive = gr.File(label="the checkpoints")
        plot = gr.Plot()
        button.click(draw, [representation, method, target, count, seed], [plot, table, about, archive])
    return app


if __name__ == "__main__":
    build().launch()
