"""Everything that knows Dagster, one module per concept; composed in ``kb_pipeline.definitions``."""

import warnings

import dagster as dg

# Partitioned checks, pools and data versions on outputs are marked beta or preview; the version is pinned, so the
# warnings tell a user nothing they could act on.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
# A chain job mixes policies on purpose: documents and chunks run key by key, embeddings take all keys of a run at once.
warnings.filterwarnings("ignore", message="Asset job .* materializes assets with varying BackfillPolicies")
