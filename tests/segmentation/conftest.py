# Before tensorflow, for the reason that mmfusion/segmentation/__init__.py gives.
import torchvision  # noqa: F401
