local function sort()
  local x, sum, numbers = 42, 0, {}
  for i = 1, 1000000 do
    x = x * 16807 % 2147483647
    numbers[i] = x
  end
  table.sort(numbers)
  for i = 1, #numbers do sum = (sum * 31 + numbers[i]) % 1000000007 end
  print(sum)
end

local function garbage()
  local kept = {}
  for turn = 1, 200 do
    local chain = {}
    for _ = 1, 10000 do chain = {chain} end
    kept[turn % 4] = chain
  end
  print("collected")
end

local what, count = arg[1], tonumber(arg[2])
if what == "sort" then sort()
elseif what == "garbage" then garbage()
elseif what == "bomb" then
  local all = {}
  while true do all[#all + 1] = string.rep("x", 1048576) .. #all end
elseif what == "exit" then os.exit(count)
elseif what == "throw" then error("boom")
else
  print("looping")
  io.stdout:flush()
  while true do end
end
