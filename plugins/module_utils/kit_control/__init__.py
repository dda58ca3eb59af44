"""What runs on the control node: reading the manifest and the inventory, and rendering the bundle."""
