"""Networks: plain modules for one device, every size from a frozen configuration."""
