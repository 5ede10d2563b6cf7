"""``python -m fastxai`` prints what runs here, and why."""

from .ops.native import build_info

if __name__ == "__main__":
    print(build_info())
