"""The core: what a sampler is, and what it acts on. It knows no plugin and no benchmark."""
