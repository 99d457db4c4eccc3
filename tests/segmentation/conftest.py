# This import must come before tensorflow. mmfusion/segmentation/__init__.py gives the reason.
import torchvision  # noqa: F401
