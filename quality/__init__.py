"""How far two pictures or clips are apart: figures, drawings, contact sheets.

No part of ComfyUI; numbers come from torchmetrics.
"""
