"""A message is on record, and paid for, like any other call."""

from typing import Any

import pytest

OpenAccounts = Any
MockModel = Any


@pytest.mark.parametrize("stream", [False, True])
async def test_a_message_is_on_record_with_the_tokens_that_its_client_was_told(
    open_accounts: OpenAccounts, mock_model: MockModel, stream: bool
) -> None:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    async with open_accounts(mock_model(), plugin_messages_api={}) as home:
        key = await home.client("ann")
        answer = await home.call("POST", "/v1/messages", body, key=key)
        assert answer.status == 200, answer.body
        (row,) = await home.rows("ann")
    if not stream:
        usage = answer.json["usage"]
        assert row["prompt_tokens"] == usage["input_tokens"] > 0
        assert row["completion_tokens"] == usage["output_tokens"] > 0
    else:
        counts = b'"usage":{"input_tokens":%d,' % row["prompt_tokens"]
        assert counts in answer.body
        assert b'"output_tokens":%d}}' % row["completion_tokens"] in answer.body
    assert (row["surface"], row["outcome"], row["model"]) == ("messages", "complete", "m")
    assert row["total_cost"] > 0


async def test_who_has_no_money_left_is_told_in_its_shape(open_accounts: OpenAccounts, mock_model: MockModel) -> None:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    async with open_accounts(mock_model(), plugin_messages_api={}) as home:
        key = await home.client("ann", token_quota=0)
        answer = await home.call("POST", "/v1/messages", body, key=key)
    assert answer.status == 429
    assert answer.json["error"]["type"] == "rate_limit_error"
    assert answer.json["request_id"] == answer.headers["request-id"]
