-- A key of 36 bytes, another one in each request.
local n = 0
function request()
  n = n + 1
  wrk.headers["x-user-id"] = string.format("7b1c8f52-0a44-4be2-9d3e-%012x", n % 100000)
  return wrk.format("GET")
end
