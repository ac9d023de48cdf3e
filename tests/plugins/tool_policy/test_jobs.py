"""A job whose model calls a tool: nobody waits at a connection, and still nothing is called that nobody has allowed."""

from typing import Any

OpenHouse = Any
Vendor = Any
Keys = Any

JOBS = "[plugins.jobs]\npoll = 0.05\n"
ASK = 'rules = [{ tool = "delete_*", verdict = "confirm" }, { tool = "rename_*", verdict = "deny" }]'


async def ended(at: Any, job_id: str) -> Any:
    await at.request("GET", f"/v1/jobs/{job_id}/events")  # ends with the job
    return (await at.request("GET", f"/v1/jobs/{job_id}")).json


async def test_a_call_that_a_job_s_model_makes_waits_for_its_owner(
    sqlite_house: OpenHouse, vendor: Vendor, keys: Keys
) -> None:
    replies = vendor.plain(vendor.call("delete_city")), vendor.plain(text="It is done.")
    async with sqlite_house(*replies, policy=ASK, more=JOBS) as at:
        taken = await at.chat(**{"async": True})
        assert taken.status == 202, taken.body
        job = await ended(at, taken.json["job_id"])
        said = job["result"]
        assert (job["status"], said["status"]) == ("succeeded", "require_confirmation")
        assert "tool_calls" not in said["choices"][0]["message"]
        (waiting,) = await at.pending()
        assert waiting["session_id"] == said["session_id"]
        assert await at.pending(keys.bob) == []
        assert (await at.confirm(said["session_id"], "call_1", key=keys.bob)).status == 404
        answer = await at.confirm(said["session_id"], "call_1")
        assert answer.json["choices"][0]["message"]["tool_calls"] == [vendor.call("delete_city")]
        assert (await at.confirm(said["session_id"], "call_1")).error["code"] == "already_resolved"
        assert [one["function"]["name"] for one in at.stub.requests[0].json["tools"]] == ["get_weather", "delete_city"]


async def test_a_call_that_is_denied_fails_its_job_and_is_not_in_the_answer(
    sqlite_house: OpenHouse, vendor: Vendor
) -> None:
    replies = [vendor.plain(vendor.call("rename_city"))] * 4
    async with sqlite_house(*replies, policy=ASK + '\ninvalid = "refuse"', more=JOBS) as at:
        taken = await at.chat(**{"async": True})
        job = await ended(at, taken.json["job_id"])
        plain = await at.chat()
    assert job["status"] == "failed"
    assert (job["result"], job["error"]["code"]) == (None, plain.error["code"])
