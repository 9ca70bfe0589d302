"""The floor of an unchanged re-poll: fetch, parse, hash and look up, and nothing else. Pinned: Rollcall is held to it.

Usage: floor_repoll.py URL KEY FOLDER PASSES. Prints the CPU seconds of a pass and the customers in it, as JSON.
"""

import hashlib
import resource
import sys

import aiohttp
import lmdb
import orjson
import uvloop


def cpu() -> float:
    """Return the CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def once(session: aiohttp.ClientSession, url: str, env: lmdb.Environment, hasher: "hashlib.blake2b") -> int:
    """Read everything once; return how many customers there were."""
    count, cursor = 0, None
    while True:
        query = {"limit": "1000"} | ({"cursor": cursor} if cursor else {})
        async with session.get(url + "/customers", params=query) as response:
            answer = orjson.loads(await response.read())
        with env.begin(write=count == 0 and cursor is None) as txn:
            for item in answer["items"]:
                digest = hasher.copy()
                digest.update(orjson.dumps(item, option=orjson.OPT_SORT_KEYS))
                if txn.get(item["customerId"].encode()) != digest.digest():
                    pending.append((item["customerId"].encode(), digest.digest()))
        count += len(answer["items"])
        cursor = answer["pagination"].get("nextCursor")
        if not cursor:
            return count


pending: list[tuple[bytes, bytes]] = []


async def main(url: str, key: str, folder: str, passes: int) -> None:
    """Fill the store in one pass, then measure the others."""
    env = lmdb.open(folder, map_size=2**32, sync=False, metasync=False)
    hasher = hashlib.blake2b(key=b"pepper", digest_size=16)
    async with aiohttp.ClientSession(headers={"X-Api-Key": key}) as session:
        await once(session, url, env, hasher)
        with env.begin(write=True) as txn:
            for identity, digest in pending:
                txn.put(identity, digest)
        pending.clear()
        begun = cpu()
        counts = [await once(session, url, env, hasher) for _ in range(passes)]
        assert not pending, "it is not unchanged"
        print(orjson.dumps({"cpu": (cpu() - begun) / passes, "customers": counts[-1]}).decode())


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
