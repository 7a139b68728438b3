"""What every test shares."""

import os
import sys

# `worker` is a program, not an installed package: tests reach it from the checkout.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
