wrk.method = "POST"
wrk.body = string.rep("x", 1024)
wrk.headers["content-type"] = "application/octet-stream"
