"""Models in the registry whose versions no training made and no host has."""

from pipeline.storage.mongo import Store
from schemas.documents import ElderModel


def register_model(store: Store, elder_id: str, elder_name: str = "x") -> None:
    """Store a model of one released version, which is its current one."""
    version = {
        "version": 1,
        "job_id": "j",
        "fence": 1,
        "ready": True,
        "tag": f"afs_elder_{elder_id}:v1",
        "base_model": "b",
        "method": "lora",
        "recipe_sha256": "a" * 64,
        "dataset_sha256": "a" * 64,
        "created_at": "2026-01-01T00:00:00Z",
    }
    model = ElderModel.model_validate(
        {
            "id": elder_id,
            "elder_name": elder_name,
            "current": 1,
            "next_version": 2,
            "versions": [version],
        }
    )
    document = model.model_dump(by_alias=True) | {"folded_id": elder_id.lower()}
    store["models"].insert_one(document)
