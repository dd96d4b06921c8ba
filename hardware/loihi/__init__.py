"""The emulated Loihi family: chips, programs, the emulator, and how networks are compiled for them."""
