import sys, subprocess, os, time
sys.path.insert(0,'/work/main/tests'); sys.path.insert(0,'/work/main')
os.environ['K']='sk-xx'
from judge_server import JudgeServer, serving
from test_rerank import judgments
with serving(JudgeServer(judgments())) as j:
    for i in range(3):
        t=time.time(); r=subprocess.run([sys.executable,'-X','importtime','-m','cProfile','-o',f'/tmp/rr/prof{i}','-m','clir_cli','run','-q','reranker=rank_gpt','llm=openai','llm.model=judge',f'llm.base_url={j.url}','llm.api_key_env=K','llm.context=32768',f'rerank.repeat={int(time.time())%100000}'],env={**os.environ,'PYTHONPATH':'/work/main'},capture_output=True,text=True)
        print(time.time()-t,r.returncode,len(j.requests)); 
